"""The files that GLUE's site (https://gluebenchmark.com/submit) scores."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from torch import Tensor

from rwkd_lightning.systems.text.data.glue import SCORES
from rwkd_lightning.systems.text.data.task import TaskSpec
from rwkd_lightning.utils.errors import UserError

_OF_TASK = {
    "cola": "CoLA",
    "sst2": "SST-2",
    "mrpc": "MRPC",
    "qqp": "QQP",
    "qnli": "QNLI",
    "rte": "RTE",
    "stsb": "STS-B",
    "wnli": "WNLI",
}
_OF_MNLI = {"test_matched": "MNLI-m", "test_mismatched": "MNLI-mm", "ax": "AX"}
_IN_WORDS = ("mnli", "qnli", "rte")


def write_predictions(folder: Path, task: TaskSpec, split: str, idx: np.ndarray, logits: Tensor) -> Path:
    """Write what `logits` `(N, C)`, in the order of the hidden `split` with row numbers `idx` `(N,)`, predict.

    The file, which is returned, is `folder/TASK.tsv` with the columns index (0 to N - 1) and prediction: a label's name
    for mnli, ax, qnli and rte, its number for the others, and the clipped score for stsb. UserError for a split that
    GLUE's site does not score, an `idx` that does not grow, and a logit that is not finite.
    """
    name = _OF_MNLI.get(split) if task.name == "mnli" else _OF_TASK.get(task.name)
    if name is None or split not in task.hidden_splits:
        raise UserError(f"GLUE's site does not score split {split!r} of task {task.name!r}, only {task.hidden_splits}")
    if logits.shape != (len(idx), task.num_labels):
        raise ValueError(f"logits have shape {tuple(logits.shape)}, expected {(len(idx), task.num_labels)}")
    # The site counts lines; an idx with gaps still tells whether the rows are in the order of the file.
    if (back := np.diff(idx) <= 0).any():
        row = int(np.flatnonzero(back)[0])
        raise UserError(f"split {split!r} has row idx {idx[row + 1]} after {idx[row]}; give the rows in GLUE's order")
    if not logits.isfinite().all():
        row = int((~logits.isfinite()).any(dim=1).nonzero()[0])
        raise UserError(f"the logits of split {split!r} are not finite in row idx {idx[row]}; train again")

    lines = ["index\tprediction", *(f"{i}\t{word}" for i, word in enumerate(_predictions(task, logits)))]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.tsv"
    part = path.with_name(f".{path.name}.part")
    part.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    os.replace(part, path)
    return path


def _predictions(task: TaskSpec, logits: Tensor) -> list[str]:
    if task.label_names is None:
        return [f"{value:.3f}" for value in logits[:, 0].double().clamp(*SCORES).tolist()]
    numbers: list[int] = logits.argmax(dim=1).tolist()
    return [task.label_names[n] if task.name in _IN_WORDS else str(n) for n in numbers]
