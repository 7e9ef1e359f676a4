"""What a run leaves behind: the student, a row per training sample, the metrics. Each whole or not there."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

from rwkd_lightning.data.resumable import ResumableDataModule
from rwkd_lightning.systems.text.data.datamodule import DistillationDataModule
from rwkd_lightning.systems.text.data.task import UNLABELLED, release
from rwkd_lightning.systems.text.models import Classifier, load_tokenizer
from rwkd_lightning.systems.text.models.probing import probe_ids, taking
from rwkd_lightning.training.ledger import Ledger
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.model_files import size

ROW_GROUP = 16_384
"""Rows of ``weights.parquet`` that are copied at a time."""


def write_student(folder: Path, student: Classifier, tokenizer: Any) -> int:
    """``student/`` for ``AutoModelForSequenceClassification.from_pretrained``; returns the bytes of its weights."""
    with whole(folder) as part:
        save(part, student, tokenizer)
    return size(folder)


def save(folder: Path, student: Classifier, tokenizer: Any) -> None:
    """Write a student's network and tokenizer."""
    student.network.save_pretrained(folder)  # type: ignore[operator]
    tokenizer.save_pretrained(folder)


def try_writing(folder: Path, student: Classifier, tokenizer: Any, source: str) -> None:
    """Write an untrained student (or teacher) into ``folder``, load it again as its users will, and leave nothing behind.

    Args:
        folder: where the temporary one is made.
        student: the model.
        tokenizer: its own.
        source: for messages, the setting that it comes from, as ``pair.student.path=PATH``.

    Raises:
        UserError: if it cannot be written or loaded, or says other things than the one in memory: after the training there would
            be no student.
    """
    from transformers import AutoModelForSequenceClassification

    ids = probe_ids(student.network, 16)
    with tempfile.TemporaryDirectory(prefix=".student-", dir=folder) as part, torch.random.fork_rng(devices=[]):
        try:
            save(Path(part), student, tokenizer)
            load_tokenizer(part)
            again = AutoModelForSequenceClassification.from_pretrained(part, trust_remote_code=False)
            same = torch.allclose(taking(again, ids), taking(student.network, ids), atol=1e-5)
        except (OSError, SafetensorError):  # of the disk, not of the model
            raise
        except Exception as error:  # configs are checked by their classes, which raise what they like
            reason = " ".join(str(error).split())[:160].replace(part, "the folder")
            raise UserError(f"{source}: this model cannot be written and loaded again ({reason}); give another, or use "
                            "pair.student.layers=null if it was cut") from error
    if not same:
        raise UserError(f"{source}: written and loaded again, this model says other things than before; give another, or use "
                        "pair.student.layers=null if it was cut")


@contextlib.contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of ``folder`` when that went well."""
    part = Path(tempfile.mkdtemp(prefix=".student-", dir=folder.parent))
    try:
        yield part
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def teacher_ce(data: DistillationDataModule) -> dict[str, Tensor]:
    """``loss_teacher_ce`` ``(N,)``: the teacher's own cross-entropy on the training rows; nothing for a regression.

    NaN for a row without a label.
    """
    logits = data.rows(data.train_split).extras.get("teacher_logits")
    if logits is None or data.task.is_regression:
        return {}
    labels = data.train_labels
    groups = [slice(start, start + ROW_GROUP) for start in range(0, data.train_size, ROW_GROUP)]
    losses = torch.cat([F.cross_entropy(logits[rows].float(), labels[rows], ignore_index=UNLABELLED, reduction="none")
                        for rows in groups])
    return {"loss_teacher_ce": losses.masked_fill_(labels == UNLABELLED, torch.nan)}


def write_weights(path: Path, ledger: Ledger, data: ResumableDataModule,
                  more: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """``weights.parquet``: idx, split, label, what is known of a row, the ledger's columns and ``more``; returns the tensors.

    NaN, which stands for what there is not, is written as null.
    """
    import pyarrow
    import pyarrow.parquet

    columns = {"idx": data.train_idx, "label": data.train_labels, **data.train_flags, **ledger.columns(), **(more or {})}
    groups = [slice(start, start + ROW_GROUP) for start in range(0, data.train_size, ROW_GROUP)]

    def table(rows: slice) -> Any:
        idx, *rest = ((name, pyarrow.array(values[rows].numpy(), from_pandas=True)) for name, values in columns.items())
        return pyarrow.table(dict([idx, ("split", pyarrow.repeat(data.train_split, len(idx[1]))), *rest]))

    part = path.with_name(f".{path.name}.part")
    with pyarrow.parquet.ParquetWriter(part, table(slice(0)).schema) as writer:
        for rows in groups:
            writer.write_table(table(rows))
    release()
    os.replace(part, path)
    return columns


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """A JSON file, replaced in one move; null for a number that does not exist, as NaN is no JSON."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(without_nan(value), indent=2, allow_nan=False) + "\n")
    os.replace(part, path)


def without_nan(value: Any) -> Any:
    """None for every NaN in nested dictionaries and lists (a correlation with constant predictions, say)."""
    if isinstance(value, Mapping):
        return {name: without_nan(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def probe_scores(columns: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """How well weights, influences and plain losses find what the probes corrupted: areas under the ROC curve.

    Corrupted teacher outputs are looked for among rows with clean labels, flipped labels among rows with a sound teacher;
    every figure is oriented so that 1 finds them all and 0.5 is chance. All figures are of the same rows: those that the
    training has seen and for which no column is missing, so rows without a label do not count.
    """
    flipped, corrupted = columns["label_flipped"], columns["teacher_corrupted"]
    found: dict[str, dict[str, float]] = {}
    for name, flag, others, term in (("teacher_corrupted", corrupted, ~flipped, "kd"),
                                     ("label_flipped", flipped, ~corrupted, "ce")):
        trusted = {"weight": columns[f"w_{term}"], "influence": columns[f"influence_{term}"]} if f"w_{term}" in columns else {}
        suspicion = {n: -c for n, c in trusted.items() if differs(c)}
        suspicion |= {n: columns[n] for n in ("loss_teacher_ce", "loss_ce", "loss_kd") if n in columns}
        rows = others & (columns["visits"] > 0)
        for column in suspicion.values():
            rows = rows & column.isfinite()
        positives = flag[rows]
        if bool(positives.any()) and not bool(positives.all()):
            found[name] = {n: area_under_roc(c[rows], positives) for n, c in suspicion.items()}
    return found


def differs(column: Tensor) -> bool:
    """Whether a column tells rows apart, those aside for which it is missing (NaN)."""
    known = column[column.isfinite()]
    return len(known) > 1 and float(known.std()) > 0


def area_under_roc(scores: Tensor, positives: Tensor) -> float:
    """Area under the ROC curve of scores ``(N,)`` for flags ``(N,)``."""
    from torchmetrics.functional.classification import binary_auroc

    ranks = torch.unique(scores.double(), return_inverse=True)[1].double()  # torchmetrics would squash values outside [0, 1]
    return float(binary_auroc(ranks / ranks.max().clamp_min(1), positives.long()))
