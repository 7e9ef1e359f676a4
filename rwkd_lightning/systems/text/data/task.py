"""Tasks, and the checked splits that every loader returns."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkd_lightning.systems.text.data.values import class_number, off, plain, real_number, shown, text, whole_number
from rwkd_lightning.utils.errors import UserError

if TYPE_CHECKING:
    import datasets
    import pyarrow

log = logging.getLogger(__name__)
TRAINING_SPLITS = ("teacher_train", "train", "meta")
UNLABELLED = -1
_CHUNK = 32_768  # rows that are Python objects, or copied for a join, at a time


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
    """Scored, so labelled."""
    hidden_splits: tuple[str, ...] = ()
    """Predicted only: every label there is `hidden_label`."""
    label_sets: tuple[tuple[int, ...], ...] | None = None
    """Where a row has several labels, or none: the sets that occur, as numbers of `label_names`. The label of a row is
    then the number of its set.
    """
    label_shares: tuple[float, ...] | None = None
    """Of several labels per row: the share of the training rows that have each, in (0, 1). A new head begins there."""

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
    def is_multilabel(self) -> bool:
        """Whether a row may have several labels, or none."""
        return self.label_sets is not None

    @property
    def label_values(self) -> int:
        """How many different labels a row can have: classes, or sets of them."""
        return self.num_labels if self.label_sets is None else len(self.label_sets)

    def targets(self, labels: np.ndarray) -> np.ndarray:
        """What a model learns from labels `(N,)`: these, or of several per row 0 or 1 `(N, C)` (-1: not known)."""
        if self.label_sets is None:
            return labels
        found = np.full((len(labels), self.num_labels), UNLABELLED, np.float32)
        table = np.zeros((len(self.label_sets), self.num_labels), np.float32)
        for row, numbers in zip(table, self.label_sets, strict=True):
            row[list(numbers)] = 1
        known = labels != UNLABELLED
        found[known] = table[labels[known]]
        return found

    def classes_in(self, labels: np.ndarray) -> set[int]:
        """The numbers of the classes that rows with these labels `(N,)` have."""
        seen = set(np.unique(labels[~self.lacks_label(labels)]).tolist())
        return seen if self.label_sets is None else {number for one in seen for number in self.label_sets[one]}

    @property
    def num_labels(self) -> int:
        """The number of model outputs C: the number of classes, or 1 for regression."""
        return 1 if self.label_names is None else len(self.label_names)

    @property
    def hidden_label(self) -> float:
        """The value of a label that is not known: NaN for regression, else -1."""
        return float("nan") if self.is_regression else UNLABELLED

    def lacks_label(self, labels: np.ndarray) -> np.ndarray:
        """Flag the rows `(N,)` whose label is `hidden_label`."""
        flags: np.ndarray = np.isnan(labels) if self.is_regression else labels == UNLABELLED
        return flags

    @property
    def splits(self) -> tuple[str, ...]:
        """Every split that the task needs: the training, evaluation and hidden ones."""
        return (*TRAINING_SPLITS, *self.evaluation_splits, *self.hidden_splits)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of each split."""
        return ("idx", "label", *self.text_columns)


@dataclass
class TaskData:
    """A task with its splits (teacher_train, train, meta, evaluation, hidden), checked on construction."""

    task: TaskSpec
    splits: dict[str, datasets.Dataset]
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)
    """More columns of the training rows, `(N,)` each: `sample_weight`, say."""
    teacher_logits: Mapping[str, np.ndarray] = field(default_factory=dict)
    """What a teacher said of the rows of a split, `(N, C)`, where the data bring it; NaN for a row of which nothing."""
    _fingerprints: list[tuple[datasets.Dataset, str]] = field(
        default_factory=list, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        check(self)

    def fingerprint(self, split: str) -> str:
        """Return the SHA-256 of the idx, labels and texts of `split`: the same wherever the rows came from."""
        rows = self.splits[split]
        for known, fingerprint in self._fingerprints:  # every cache asks, and the largest splits take seconds
            if known is rows:
                return fingerprint
        self._fingerprints.append((rows, self._digest(rows)))
        return self._fingerprints[-1][1]

    def _digest(self, split: datasets.Dataset) -> str:
        digest = hashlib.sha256()
        for start in range(0, len(split), _CHUNK):
            rows = split.with_format(None)[start : start + _CHUNK]
            for idx, label, *texts in zip(*(rows[name] for name in self.task.columns), strict=True):
                # JSON keeps the borders between texts; float.hex is exact where repr may change between versions.
                number: Any = float(label).hex() if self.task.is_regression else int(label)
                if self.task.label_sets is not None:
                    number = list(self.task.label_sets[int(label)]) if int(label) != UNLABELLED else None
                digest.update(json.dumps([int(idx), number, *texts]).encode("ascii") + b"\n")
        return digest.hexdigest()


def build_split(task: TaskSpec, columns: Mapping[str, Iterable[Any]], split: str | None = None) -> datasets.Dataset:
    """Build one split in memory from `columns` (idx, label and the text columns) with the plain column types.

    Taken are whole numbers of any integer type, text, and for a regression numbers, which become the nearest float32.
    UserError names the first other value, its row and, where it is given, the `split`; None is left to the checks of
    `TaskData`.
    """
    import pyarrow as pa
    from datasets import Dataset

    where = f"{'a split' if split is None else f'split {split!r}'} of task {task.name!r}"
    for name in task.columns:
        if name not in columns:
            raise UserError(f"{where} has no column {name!r}, only {list(columns)}; add it")
        if isinstance(columns[name], str | bytes):
            raise UserError(
                f"{where} has one {type(columns[name]).__name__} as column {name!r}; give a list with one value per row"
            )
    values = {name: [plain(value) for value in columns[name]] for name in task.columns}
    sizes = {name: len(column) for name, column in values.items()}
    if len(set(sizes.values())) > 1:
        raise UserError(f"{where} has columns of different lengths {sizes}; give one value per row in each")
    label = real_number if task.label_names is None else class_number(task.label_names)
    problem_of = {"idx": whole_number, "label": label, **dict.fromkeys(task.text_columns, text)}
    arrays = []
    for field_, (name, column) in zip(_schema(task), values.items(), strict=True):
        for row, value in enumerate(column):
            if value is not None and (problem := problem_of[name](value)):
                idx = values["idx"][row]
                at = f"row idx {idx}" if name != "idx" and idx is not None else f"row {row}"
                raise UserError(f"{where} has {shown(value)} in column {name!r}, {at}; {problem}")
        arrays.append(pa.array(column, field_.type))
    return Dataset(pa.Table.from_arrays(arrays, schema=_schema(task)))


def split_from_table(task: TaskSpec, table: pyarrow.Table, split: str | None = None) -> datasets.Dataset:
    """Build one split from the task's columns of an Arrow `table`; what `build_split` refuses is refused here too."""
    import pyarrow as pa
    from datasets import Dataset

    schema, columns = _schema(task), table.select(list(task.columns))
    exact = {
        pa.int64(): pa.types.is_integer,
        pa.string(): lambda t: pa.types.is_string(t) or pa.types.is_large_string(t),
        pa.float32(): lambda t: pa.types.is_integer(t) or pa.types.is_floating(t),
    }
    plain_types = all(exact[want.type](have.type) for want, have in zip(schema, columns.schema, strict=True))
    try:
        if plain_types and not (task.is_regression and off(columns["label"].to_numpy()).any()):
            return Dataset(columns.cast(schema))
    except pa.ArrowException:  # a number beyond 64 bits
        pass
    return build_split(task, {name: columns[name].to_pylist() for name in task.columns}, split)


def _schema(task: TaskSpec) -> pyarrow.Schema:
    import pyarrow as pa

    label = pa.float32() if task.is_regression else pa.int64()
    return pa.schema([("idx", pa.int64()), ("label", label), *((name, pa.string()) for name in task.text_columns)])


def table_of(split: datasets.Dataset) -> pyarrow.Table:
    """Return the rows of `split` as an Arrow table."""
    return split.with_format("arrow")[:]


def release() -> None:
    """Give the system back what Arrow keeps of memory that it is done with: nothing else of a run can use it."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()


def column(split: datasets.Dataset, name: str) -> np.ndarray:
    """Return the numbers of one column as an array `(N,)`."""
    return np.array(table_of(split.select_columns([name]))[name].to_numpy())  # a copy: Arrow's memory is read-only


def check(data: TaskData) -> None:
    """Raise UserError naming split, value and row idx where `data` breaks a rule that training relies on.

    Logs a warning for a split with rows that lack one of their two texts.
    """
    task = data.task
    for split in task.splits:
        if split not in data.splits:
            raise UserError(f"task {task.name!r} has no split {split!r}, only {sorted(data.splits)}; add it")
    # Where the teacher trains on the student's rows, these are checked once, by the stricter rule.
    shared = data.splits["teacher_train"] is data.splits["train"]
    for split in [name for name in task.splits if not (shared and name == "teacher_train")]:
        check_split(task, split, data.splits[split], unlabelled=split == "train" and not shared)
        _warn_of_missing_texts(task, split, data.splits[split])
    for split in ("train",) if shared else ("teacher_train", "train"):
        _check_leak(task, split, data.splits[split], data.splits["meta"])
    release()

    train, meta = (column(data.splits[name], "label") for name in ("train", "meta"))
    seen = np.unique(train[~task.lacks_label(train)])
    if not len(seen):
        raise UserError(
            f"split 'train' of task {task.name!r} has no row with a label ({len(train)} without); label some"
        )
    if len(seen) < 2:
        raise UserError(f"split 'train' of task {task.name!r} has only the labels {seen.tolist()}; give two or more")
    if task.is_multilabel:  # rare ones may be in one split alone
        if lacking := sorted(task.classes_in(train) - task.classes_in(meta)):
            names = [(task.label_names or ())[number] for number in lacking]
            log.warning("no row of the meta split has the label(s) %s", ", ".join(names))
        return
    missing = np.setdiff1d(seen, meta)
    if not task.is_regression and len(missing):
        idx = column(data.splits["train"], "idx")[train == missing[0]][0]
        raise UserError(
            f"split 'meta' of task {task.name!r} has no row of label {missing[0]}, which 'train' has (row idx {idx}); "
            "enlarge the meta split, or give the class more than one distinct text"
        )


def check_split(task: TaskSpec, split: str, rows: datasets.Dataset, unlabelled: bool = False) -> None:
    """Raise UserError where a split breaks a rule of its own; `unlabelled` allows labels of -1 (a regression: NaN)."""
    where = f"split {split!r} of task {task.name!r}"
    types = {name: getattr(feature, "dtype", str(feature)) for name, feature in rows.features.items()}
    label_type = "float32" if task.is_regression else "int64"
    wanted = {"idx": "int64", "label": label_type} | dict.fromkeys(task.text_columns, "string")
    if types.keys() != wanted.keys():
        raise UserError(f"{where} has columns {types}; give idx (int64), label ({label_type}), {task.text_columns}")
    for name in [name for name in wanted if types[name] != wanted[name]]:
        first = shown(plain(table_of(rows)[name][0])) if len(rows) else "nothing"
        raise UserError(
            f"{where} has {types[name]} in column {name!r}, first {first}; give {wanted[name]}, as build_split does"
        )
    if hasattr(rows.features["label"], "names"):
        raise UserError(f"{where} has a ClassLabel label column; cast it to plain int64")
    if not len(rows):
        raise UserError(f"{where} is empty; give it at least one row")
    table = table_of(rows)
    for name in ("idx", "label"):
        if table[name].null_count:
            raise UserError(
                f"{where} has no {name} (None) in row {_first(table[name].is_null())}; drop the row or give one"
                + (
                    f" ({task.hidden_label}: the teacher alone teaches the row)"
                    if name == "label" and unlabelled
                    else ""
                )
            )
    _check_labels(task, split, where, table["label"].to_numpy(), table["idx"].to_numpy(), unlabelled)
    _check_texts(task, where, table)


def _check_labels(
    task: TaskSpec, split: str, where: str, labels: np.ndarray, idx: np.ndarray, unlabelled: bool
) -> None:
    hidden = task.lacks_label(labels)
    if split in task.hidden_splits:
        wrong, expected = ~hidden, f"{task.hidden_label} in every row, as the split is one of hidden_splits"
    elif task.is_regression:
        wrong, expected = ~(np.isfinite(labels) | (hidden & unlabelled)), "a finite number"
    else:
        wrong = (labels < UNLABELLED) | (labels >= task.label_values) | (hidden & (not unlabelled))
        expected = f"0 to {task.label_values - 1}"
    if not wrong.any():
        return
    row = _first(wrong)
    if unlabelled:
        expected += f", or {task.hidden_label} for a row without a label"
    elif hidden[row]:
        expected += f" ({_without_label(task, split)})"
    raise UserError(f"{where} has label {labels[row]} in row idx {idx[row]}; expected {expected}")


def _without_label(task: TaskSpec, split: str) -> str:
    """Say why this split cannot hold a row without a label, and what to do about it."""
    if split in task.evaluation_splits:
        return (
            "a row without a label cannot be scored: drop it; a split that is only predicted is one of the TaskSpec's "
            "hidden_splits"
        )
    if split == "train":
        return (
            "the teacher is trained on 'train' too: give it the rows with labels as 'teacher_train', a split of its own"
        )
    return "only 'train' may hold rows without a label: drop it here"


def _check_texts(task: TaskSpec, where: str, table: pyarrow.Table) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    def at(flags: Any) -> str:
        return f"row idx {table['idx'][_first(flags)]}"

    for name in task.text_columns:
        texts = table[name]
        if texts.null_count:
            raise UserError(
                f"{where} has no text (None) in column {name!r}, {at(texts.is_null())}; drop the row or give ''"
            )
        try:
            texts.validate(full=True)
        except pa.ArrowInvalid as error:
            row = at([not _is_utf8(value) for value in texts.cast(pa.binary()).to_pylist()])
            raise UserError(
                f"{where} has text that is not UTF-8 in column {name!r}, {row}; write it again as UTF-8"
            ) from error
        nul = pc.match_substring(texts, "\0")
        if pc.any(nul).as_py():
            raise UserError(
                f"{where} has a NUL byte in column {name!r}, {at(nul)}; such text usually comes from a UTF-16 file that"
                " was read as another encoding, so read that file as UTF-16"
            )
    empty = np.logical_and.reduce(_blank(task, table))
    if empty.any():
        raise UserError(f"{where} has no text but white space in {task.text_columns}, {at(empty)}; drop the row")


def _warn_of_missing_texts(task: TaskSpec, split: str, rows: datasets.Dataset) -> None:
    table = table_of(rows)
    half = np.logical_or.reduce(_blank(task, table))
    if half.any():
        log.warning(
            "split %r of task %r has %d row(s) with one of two texts empty, the first in row idx %s",
            split,
            task.name,
            half.sum(),
            table["idx"][_first(half)],
        )


def _check_leak(task: TaskSpec, split: str, rows: datasets.Dataset, meta: datasets.Dataset) -> None:
    """Raise UserError where a text (a pair: both texts) of `meta` is in `rows` too: it would score what was learnt."""
    import pyarrow.compute as pc

    texts = list(task.text_columns)
    table, held = table_of(rows), table_of(meta)
    # The join is exact and in C++; tuples of 390,000 rows in a set take ten times as long. It copies its right side.
    parts = (table.select(texts).slice(start, _CHUNK) for start in range(0, len(table), _CHUNK))
    leaks = (row for part in parts for row in held.join(part, keys=texts, join_type="left semi").to_pylist())
    found = {(row["idx"], *(row[name] for name in texts)): row for row in leaks}
    if found:
        leaked = [found[key] for key in sorted(found)]
        same = [pc.equal(table[name], leaked[0][name]).to_numpy() for name in texts]
        raise UserError(
            f"split 'meta' of task {task.name!r} has {len(leaked)} row(s) whose text is in {split!r} too, the first"
            f" with row idx {leaked[0]['idx']} there and {table['idx'][_first(np.logical_and.reduce(same))]} in"
            f" {split!r}; drop them from one of the two"
        )


def _blank(task: TaskSpec, table: pyarrow.Table) -> list[np.ndarray]:
    import pyarrow.compute as pc

    return [pc.equal(pc.utf8_trim_whitespace(table[name]), "").to_numpy() for name in task.text_columns]


def _first(flags: Any) -> int:
    return int(np.flatnonzero(np.asarray(flags))[0])


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
