"""Training rows without a label in GLUE's files: for the student alone, and never held out."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rwkd_lightning.systems.text.data.datamodule import DistillationDataModule
from rwkd_lightning.systems.text.data.glue import load_glue
from rwkd_lightning.systems.text.data.task import TaskData, column
from rwkd_lightning.utils.errors import UserError

NAN = float("nan")
TEXTS = {"mnli": ("premise", "hypothesis"), "rte": ("sentence1", "sentence2"), "stsb": ("sentence1", "sentence2")}
SCORED = {"mnli": ("validation_matched", "validation_mismatched"), "rte": ("validation",), "stsb": ("validation",)}


def write(root: Path, task: str, labels: list[Any], split: str = "train", same: dict[int, int] | None = None) -> None:
    """A file of one row per label; ``same`` gives a row another one's texts."""
    rows = [(same or {}).get(row, row) for row in range(len(labels))]
    texts = {name: [f"w{row % 9} {split} {row} {name}" for row in rows] for name in TEXTS[task]}
    (root / task).mkdir(exist_ok=True)
    pq.write_table(
        pa.table({**texts, "label": labels, "idx": list(range(len(labels)))}),
        root / task / f"{split}-00000-of-00001.parquet",
    )


def loaded(root: Path, task: str, labels: list[Any], **options: Any) -> TaskData:
    for split in SCORED[task]:
        write(root, task, [0, 1] * 4 if task != "stsb" else [0.5, 3.5] * 4, split)
    write(root, task, labels, **options)
    return load_glue(task, str(root), meta_fraction=0.2)


CLASSES = [0, 1] * 20
CASES = {  # task, labels of the labelled rows, what stands for none
    "rte": ("rte", CLASSES, [-1]),
    "mnli": ("mnli", [0, 1, 2] * 13 + [0], [-1]),
    "stsb": ("stsb", [float(n % 6) for n in range(40)], [NAN, -1.0]),
}


@pytest.mark.parametrize("case", CASES)
def test_they_are_the_students_alone(case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Prevents: a teacher that is fine-tuned on rows without a label, held-out rows without one, and another meta split
    than the one that the labelled rows have by themselves.
    """
    task, labels, without = CASES[case]
    mixed = [label for n, label in enumerate(labels) for label in (label, without[n % len(without)])]
    with caplog.at_level(logging.INFO, "rwkd_lightning"):
        data = loaded(tmp_path, task, mixed)
    idx = {split: column(rows, "idx") for split, rows in data.splits.items()}
    assert (idx["teacher_train"] % 2 == 0).all() and (idx["meta"] % 2 == 0).all()
    assert (
        sorted([*idx["train"], *idx["meta"]])
        == list(range(80))
        == sorted([*idx["teacher_train"], *idx["meta"], *range(1, 80, 2)])
    )
    assert (np.diff(idx["train"]) > 0).all()
    lacking = data.task.lacks_label(column(data.splits["train"], "label"))
    np.testing.assert_array_equal(lacking, idx["train"] % 2 == 1)
    assert f"split 'train' of task '{task}' has {len(idx['train'])} rows, 40 of them without a label" in caplog.text

    (tmp_path / "alone").mkdir()
    alone = loaded(tmp_path / "alone", task, labels)
    assert alone.splits["teacher_train"] is alone.splits["train"]
    for split in ("teacher_train", "meta"):
        np.testing.assert_array_equal(idx[split], 2 * column(alone.splits[split], "idx"))


def test_a_held_out_text_is_not_learnt_without_its_label(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Prevents: the teacher's answer to a held-out text among the training rows, or a refusal of a file that has such
    rows.
    """
    with caplog.at_level(logging.INFO, "rwkd_lightning"):
        data = loaded(tmp_path, "rte", CLASSES + [-1] * 40, same={40 + row: row for row in range(40)})
    held, kept = column(data.splits["meta"], "idx"), column(data.splits["train"], "idx")
    assert len(held) == 8 and sorted({*range(80)} - {*kept.tolist()}) == sorted([*held, *(40 + held)])
    assert (
        "has 64 rows, 32 of them without a label: the teacher's terms alone teach these; 8 more are left out"
        in caplog.text
    )


@pytest.mark.parametrize(
    ("task", "labels", "said"),
    [
        ("rte", [-1] * 30, "split 'train' of task 'rte' has no row with a label, .*; label a part of its 30 rows"),
        ("stsb", [NAN] * 30, "split 'train' of task 'stsb' has no row with a label"),
        ("rte", [*CLASSES, -2], "label -2 in row idx 40; expected 0 to 1, or -1 for a row without a label"),
        (
            "rte",
            [*CLASSES, None],
            "has no label (None) in row 40; drop the row or give one (-1: the teacher alone teaches the row)",
        ),
        ("stsb", [*[0.5, 3.5] * 20, None], "has no label (None) in row 40; drop the row or give one (nan: "),
        ("stsb", [*[0.5, 3.5] * 20, -0.5], "label -0.5 in row idx 40; expected 0 to 5"),
    ],
)
def test_what_is_no_label_at_all(task: str, labels: list[Any], said: str, tmp_path: Path) -> None:
    """Prevents: a file in which nothing can be learnt or held out, and an empty cell that passes for a row without a
    label.
    """
    with pytest.raises(UserError, match=f"^data.path=.*{said if '.*' in said else re.escape(said)}"):
        loaded(tmp_path, task, labels)


@pytest.mark.parametrize(
    ("task", "label", "said"),
    [
        ("rte", -1, "label -1 in row idx 3; expected 0 to 1 (a row without a label cannot be scored: drop it"),
        ("stsb", -1.0, "label -1.0 in row idx 3; expected 0 to 5"),
        (
            "stsb",
            NAN,
            "label nan in row idx 3; expected a finite number (a row without a label cannot be scored: drop it",
        ),
    ],
)
def test_scored_rows_need_labels(task: str, label: float, said: str, tmp_path: Path) -> None:
    """Prevents: scores against labels that nobody gave."""
    loaded(tmp_path, task, CASES[task][1])
    write(tmp_path, task, [*CASES[task][1][:3], label], "validation")
    with pytest.raises(UserError, match=re.escape("split 'validation'") + ".*" + re.escape(said)):
        load_glue(task, str(tmp_path), meta_fraction=0.2)


def test_probes_leave_them_alone(tmp_path: Path, tokenizer: Any) -> None:
    """Prevents: a label that a corruption gives to a row without one, and a share that counts such rows."""
    data = loaded(tmp_path, "rte", CLASSES + [-1] * 40)
    loaders = DistillationDataModule(data, tokenizer, label_noise=0.5, teacher_logits={"train": torch.randn(72, 2)})
    flipped, lacking = loaders.train_flags["label_flipped"], loaders.train_labels == -1
    assert int(lacking.sum()) == 40 and int(flipped.sum()) == 16 and not bool(flipped[lacking].any())
