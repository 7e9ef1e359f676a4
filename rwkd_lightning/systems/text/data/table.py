"""A text task of a user's own: tables with one or two columns of text and a class or a number."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from rwkd_lightning.data.splits import cuts
from rwkd_lightning.data.table_file import Table, read_table
from rwkd_lightning.systems.text.data.table_label_sets import label_sets, rarest, shares_of
from rwkd_lightning.systems.text.data.table_labels import class_numbers, numbers, weights
from rwkd_lightning.systems.text.data.table_near_copies import copies_of
from rwkd_lightning.systems.text.data.table_summary import summarise
from rwkd_lightning.systems.text.data.table_teacher import Spec, TeacherColumns, check_order
from rwkd_lightning.systems.text.data.task import TaskData, TaskSpec, build_split
from rwkd_lightning.utils.errors import UserError

QUANTILES = 10
"""Parts of a number's range that a cut keeps in proportion."""


def load_table(
    train: str | None,
    text: str | Sequence[str] | None = None,
    label: str | Sequence[str] = "label",
    validation: str | None = None,
    test: str | None = None,
    classes: Sequence[Any] | None = None,
    regression: bool = False,
    multilabel: bool = False,
    separator: str = ";",
    group: str | None = None,
    near_copies: float | None = 0.8,
    weight: str | None = None,
    teacher_probabilities: Spec | None = None,
    teacher_logits: Spec | None = None,
    teacher_logprobs: str | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    meta_fraction: float = 0.1,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.1,
    split_seed: int = 0,
) -> TaskData:
    """Read the tables and cut what is not given.

    The meta split is cut out of the training rows, and so are validation and test where no file is given. A cut is
    seeded, keeps the classes in proportion, and leaves near-copies of a text (letters and digits alone count) and rows
    of one group on one side. Rows without a label train the student alone. The idx of a row is its number in the
    training file, from 0.

    Args:
        train: a CSV, TSV, JSON lines or Parquet file, or a directory of such files.
        text: the one or two columns of text; None: ``text``.
        label: the column of the class, of the number or of the labels; with ``multilabel``, or a column of 0 and 1 for
            each label.
        validation: as ``train``; None: cut.
        test: as ``train``; None: cut.
        classes: their names in the order of the student's outputs; None: all that are there, sorted.
        regression: whether the label is a number.
        multilabel: whether a row has several labels, or none.
        separator: between the labels of a row, where they are one text.
        group: a column whose equal values stay on one side of every cut.
        near_copies: the Jaccard similarity of the shingles of two texts from which on they are near-copies
            (`near_copies.NearCopies`); None: equal texts alone are copies.
        weight: a column of weights, one per training row, for ``weighting=given``.
        teacher_probabilities: columns of what a teacher says of the rows, for ``pair.teacher=file``; all of a row's may
            be empty. They are read in the validation and test files, too, where these have them.
        teacher_logits: the same, as logits.
        teacher_logprobs: the same, one column of the likeliest classes with their log-probabilities.
        encoding: of text files; None: UTF-8, or UTF-16 with a mark.
        delimiter: of CSV and TSV files; None: by the ending.
        meta_fraction: share of the training rows held out for the meta step.
        validation_fraction: share of the rows cut off for validation.
        test_fraction: share cut off for the test.
        split_seed: of all cuts.

    Raises:
        UserError: for files, columns, labels and weights that cannot be read as this, naming the line.
    """
    if train is None:
        raise UserError("data.train names no file; give data.train=FILE (.csv, .tsv, .jsonl, .parquet), or a directory")
    columns = (text,) if isinstance(text, str) else tuple(text or ["text"])
    labelled = [label] if isinstance(label, str) else list(label)
    if not 1 <= len(columns) <= 2 or len({*columns, *labelled}) < len(columns) + len(labelled):
        named = label if isinstance(label, str) else f"[{','.join(labelled)}]"
        raise UserError(
            f"data.text={list(columns)} data.label={named}: give one or two columns of text, and another one as label"
        )
    if regression and multilabel:
        raise UserError("data.regression=true and data.multilabel=true say what a label is; set one of them to false")
    if not isinstance(label, str) and not multilabel:
        raise UserError(
            f"data.label=[{','.join(labelled)}] names {len(labelled)} columns; add data.multilabel=true if each is a "
            "label of 0 or 1, or name one column"
        )
    taught = TeacherColumns(teacher_probabilities, teacher_logits, teacher_logprobs)
    known = list(dict.fromkeys([*columns, *labelled, *(c for c in (group, weight) if c is not None), *taught.names]))
    tables = {"train": read_table(train, known, "data.train", encoding, delimiter)}
    known = list(dict.fromkeys([*columns, *labelled, *taught.names]))
    for name, path in (("validation", validation), ("test", test)):
        if path is not None:
            tables[name] = read_table(path, known, f"data.{name}", encoding, delimiter, taught.names)
    names, sets = None, None
    if multilabel:
        labels, names, sets = label_sets(tables, label, separator, classes)
    elif regression:
        labels = numbers(tables, labelled[0])
    else:
        labels, names = class_numbers(tables, labelled[0], classes)
    task = TaskSpec(
        name="table",
        text_columns=tuple(f"{c}_text" if c in ("idx", "label") else c for c in columns),
        label_names=names,
        metrics=metrics_of(regression, multilabel),
        monitor="pearson" if regression else "macro_f1",
        evaluation_splits=("validation", "test"),
        label_sets=sets,
    )
    texts = {name: [strings(table, c) for c in columns] for name, table in tables.items()}
    for name, table in tables.items():
        for row, both in enumerate(zip(*texts[name], strict=True)):
            if not any(part.strip() for part in both):
                raise UserError(f"{table.at(row)} has no text but white space in {list(columns)}; drop the row")
    keys = {name: [key_of(*row) for row in zip(*both, strict=True)] for name, both in texts.items()}
    of = tables["train"].columns[group] if group is not None else None
    groups, equal = together(copies_of(keys, texts, near_copies), of), together(keys["train"], of)
    merged = len(set(groups)) < len(set(equal))
    way_out = "give more, or cut near-copies as other texts with data.near_copies=null" if merged else "give more"
    shares = {"meta": meta_fraction, "validation": validation_fraction, "test": test_fraction}
    shares = {name: share for name, share in shares.items() if name not in tables}
    rows = cut(groups, labels["train"], task, shares, split_seed, way_out)
    rows |= {name: np.arange(len(table)) for name, table in tables.items() if name != "train"}
    splits = {}
    for name in ("train", "meta", "validation", "test"):
        source, taken = name if name in tables else "train", rows[name]
        columns_of = {
            c: [values[row] for row in taken] for c, values in zip(task.text_columns, texts[source], strict=True)
        }
        splits[name] = build_split(
            task, {"idx": taken.tolist(), "label": labels[source][taken].tolist(), **columns_of}, name
        )
    learning = labels["train"][rows["train"]]
    learnt = task.classes_in(learning)
    for number, class_ in enumerate(names or ()):
        if number not in learnt:
            raise UserError(
                f"class {class_!r} has too few distinct texts (or groups) in data.train: no row of it is left for "
                f"training after the cuts; {way_out}, or leave it out"
            )
    summarise(task, rows, texts, keys, equal, labels)
    lacking = task.lacks_label(learning)
    if sets is not None:
        task = dataclasses.replace(task, label_shares=shares_of(task.targets(learning[~lacking])))
    teacher = splits["train"].select(np.flatnonzero(~lacking)) if lacking.any() else splits["train"]
    extras = {} if weight is None else {"sample_weight": weights(tables["train"], weight)[rows["train"]]}
    said = {name: taught.logits(table, names, multilabel) for name, table in tables.items()} if taught.names else {}
    if said and names is not None and not multilabel:
        check_order(said["train"], labels["train"], names, taught)
    return TaskData(
        task,
        {"teacher_train": teacher, **splits},
        extras,
        {name: said[name if name in tables else "train"][rows[name]] for name in (splits if said else ())},
    )


def metrics_of(regression: bool, multilabel: bool) -> tuple[str, ...]:
    """The scores of a kind of label."""
    if regression:
        return ("pearson", "spearman")
    return ("micro_f1", "macro_f1", "map") if multilabel else ("accuracy", "macro_f1")


def strings(table: Table, name: str) -> list[str]:
    """The texts of a column; UserError for a value that is none."""
    for row, value in enumerate(table.columns[name]):
        if not isinstance(value, str):
            has = "no text" if value is None else f"{value!r} ({type(value).__name__})"
            raise UserError(f"{table.at(row)} has {has} in column {name!r}; give text, or drop the row")
    return table.columns[name]


def key_of(*texts: str) -> str:
    """A text, or two, by letters and digits alone, so that copies with other marks and cases are one."""
    return "\n".join(" ".join(re.findall(r"\w+", text.casefold())) or text for text in texts)


def together(copies: Sequence[Hashable], group: Sequence[Any] | None) -> Sequence[Hashable]:
    """The group of each row: copies of a text (rows of equal values) are in one, and so are rows of one ``group``."""
    if group is None:
        return copies
    parent: dict[Hashable, Hashable] = {}

    def root(key: Hashable) -> Hashable:
        while (above := parent.setdefault(key, key)) != key:
            parent[key] = key = parent[above]
        return key

    for row, (key, value) in enumerate(zip(copies, group, strict=True)):
        parent[root(("text", key))] = root(("group", str(value) if value is not None else row))
    return [root(("text", key)) for key in copies]


def cut(
    groups: Sequence[Hashable],
    labels: np.ndarray,
    task: TaskSpec,
    shares: dict[str, float],
    seed: int,
    way_out: str = "give more",
) -> dict[str, np.ndarray]:
    """Rows of the training table by split: ``shares`` of all rows in their order, and what is left to ``train``.

    The meta split comes first, so that it has a row of each class that has two texts. A row without a label, and its
    copies, are good for training alone.
    """
    strata = quantiles(labels) if task.is_regression else labels
    if task.label_sets is not None:
        strata = rarest(labels, task.label_sets, task.num_labels)
    unlabelled = {group for group, lacks in zip(groups, task.lacks_label(labels).tolist(), strict=True) if lacks}
    rest = np.array([row for row, group in enumerate(groups) if group not in unlabelled], int)
    if not len(rest):
        raise UserError("data.train has too few rows with a label to cut a meta split; label some")
    left = [groups[row] for row in rest]
    rows = cuts(left, strata[rest], shares, seed, "distinct texts (or groups) with a label", way_out)
    rows = {name: rest[held] for name, held in rows.items() if name != "train"}
    held_out = np.concatenate(list(rows.values()))
    return {**rows, "train": np.setdiff1d(np.arange(len(labels)), held_out)}


def quantiles(labels: np.ndarray) -> np.ndarray:
    """The tenth of the range of ranks that each number lies in; −1 for NaN."""
    known = np.isfinite(labels)
    if not known.any():
        return np.full(len(labels), -1)
    edges = np.unique(np.quantile(labels[known], np.linspace(0, 1, QUANTILES + 1)[1:-1]))
    return np.where(known, np.searchsorted(edges, np.where(known, labels, 0), side="right"), -1)
