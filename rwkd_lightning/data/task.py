"""What a task is, and the checked splits that every loader returns."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkd_lightning.errors import UserError

if TYPE_CHECKING:
    import datasets

TRAINING_SPLITS = ("teacher_train", "train", "meta")
UNLABELLED = -1


@dataclass(frozen=True)
class TaskSpec:
    """A text task: its columns, labels and metrics; UserError where `monitor` is not one of `metrics`."""

    name: str
    text_columns: tuple[str, ...]
    label_names: tuple[str, ...] | None
    """None for regression."""
    metrics: tuple[str, ...]
    monitor: str
    evaluation_splits: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.text_columns) <= 2:
            raise UserError(f"task {self.name!r} has text columns {self.text_columns}; give one or two")
        if self.monitor not in self.metrics:
            raise UserError(f"task {self.name!r} monitors {self.monitor!r}; choose one of its metrics {self.metrics}")
        if self.label_names is not None and len(self.label_names) < 2:
            raise UserError(f"task {self.name!r} has label names {self.label_names}; give two or more, or None")

    @property
    def is_regression(self) -> bool:
        """Whether the label is a number instead of a class."""
        return self.label_names is None

    @property
    def num_labels(self) -> int:
        """The number of model outputs C: the number of classes, or 1 for regression."""
        return 1 if self.label_names is None else len(self.label_names)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of each split."""
        return ("idx", "label", *self.text_columns)


@dataclass
class TaskData:
    """A task with its splits (teacher_train, train, meta, then the evaluation splits), checked on construction."""

    task: TaskSpec
    splits: dict[str, datasets.Dataset]

    def __post_init__(self) -> None:
        check(self)

    def fingerprint(self, split: str) -> str:
        """Return the SHA-256 of the idx, labels and texts of `split`: the same wherever the rows came from."""
        rows = self.splits[split].with_format(None)[:]
        digest = hashlib.sha256()
        for idx, label, *texts in zip(*(rows[name] for name in self.task.columns), strict=True):
            # JSON keeps the borders between texts; float.hex is exact where repr may change between versions.
            number = float(label).hex() if self.task.is_regression else int(label)
            digest.update(json.dumps([int(idx), number, *texts]).encode("ascii") + b"\n")
        return digest.hexdigest()


def build_split(task: TaskSpec, columns: Mapping[str, Iterable[Any]]) -> datasets.Dataset:
    """Build one split in memory from `columns` (idx, label and the text columns) with the plain column types."""
    from datasets import Dataset, Features, Value

    types = {"idx": "int64", "label": "float32" if task.is_regression else "int64"}
    features = Features({name: Value(types.get(name, "string")) for name in task.columns})
    return Dataset.from_dict({name: list(columns[name]) for name in task.columns}, features=features)


def column(split: datasets.Dataset, name: str) -> np.ndarray:
    """Return the numbers of one column as an array `(N,)`."""
    table: Any = split.select_columns([name]).with_format("arrow")[:]
    return np.array(table[name].to_numpy())  # a copy: Arrow's memory is read-only


def check(data: TaskData) -> None:
    """Raise UserError naming split, value and row idx where `data` breaks a rule that training relies on."""
    task = data.task
    for split in (*TRAINING_SPLITS, *task.evaluation_splits):
        if split not in data.splits:
            raise UserError(f"task {task.name!r} has no split {split!r}, only {sorted(data.splits)}; add it")
        _check_split(task, split, data.splits[split])
    train, meta = (column(data.splits[name], "label") for name in ("train", "meta"))
    seen = np.unique(train[train != UNLABELLED])
    if len(seen) < 2:
        raise UserError(f"split 'train' of task {task.name!r} has only the labels {seen.tolist()}; give two or more")
    missing = np.setdiff1d(seen, meta)
    if not task.is_regression and len(missing):
        idx = column(data.splits["train"], "idx")[train == missing[0]][0]
        raise UserError(
            f"split 'meta' of task {task.name!r} has no row of label {missing[0]}, which 'train' has (row idx {idx}); "
            "enlarge the meta split"
        )


def _check_split(task: TaskSpec, split: str, rows: datasets.Dataset) -> None:
    where = f"split {split!r} of task {task.name!r}"
    label_type = "float32" if task.is_regression else "int64"
    types = {name: getattr(feature, "dtype", str(feature)) for name, feature in rows.features.items()}
    if types != {"idx": "int64", "label": label_type} | dict.fromkeys(task.text_columns, "string"):
        raise UserError(f"{where} has columns {types}; give idx (int64), label ({label_type}), {task.text_columns}")
    if hasattr(rows.features["label"], "names"):
        raise UserError(f"{where} has a ClassLabel label column; cast it to plain int64")
    if not len(rows):
        raise UserError(f"{where} is empty; give it at least one row")

    labels, idx = column(rows, "label"), column(rows, "idx")
    if task.is_regression:
        wrong, expected = ~np.isfinite(labels), "a finite number"
    else:
        wrong, expected = (labels < UNLABELLED) | (labels >= task.num_labels), f"0 to {task.num_labels - 1}, or -1"
    if wrong.any():
        raise UserError(f"{where} has label {labels[wrong][0]} in row idx {idx[wrong][0]}; expected {expected}")
    hidden = labels == UNLABELLED
    # A wholly unlabelled evaluation split is a hidden test set; a partly unlabelled one would be scored wrongly.
    if split != "train" and hidden.any() and not (split in task.evaluation_splits and hidden.all()):
        raise UserError(f"{where} has label -1 in row idx {idx[hidden][0]}; only 'train' may hold unlabelled rows")

    texts: Any = rows.with_format("arrow")[:]
    for name in task.text_columns:
        if texts[name].null_count:
            row = idx[texts[name].is_null().to_numpy()][0]
            raise UserError(f"{where} has no text (None) in column {name!r}, row idx {row}; drop the row or give ''")
