"""Several labels per row of a user's own table: names in one column, or a column of 0 and 1 for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rwkd_lightning.data.table_file import Table
from rwkd_lightning.systems.text.data.table_labels import LISTED, MOST_CLASSES, Labels, in_order, missing
from rwkd_lightning.utils.errors import UserError

Sets = tuple[tuple[int, ...], ...]
YES, NO = {"1", "1.0", "true", "yes"}, {"0", "0.0", "false", "no"}


def label_sets(
    tables: Mapping[str, Table], label: str | Sequence[str], separator: str, classes: Sequence[Any] | None
) -> tuple[Labels, tuple[str, ...], Sets]:
    """The number of each row's set of labels by table, −1 where nothing is known of a row; the labels; the sets.

    A cell without a label (empty text, an empty list) is a row that has none of them; a cell that is null is not known.

    Args:
        label: a column of lists or of texts with ``separator`` between the labels, or the columns of 0 and 1.
        classes: the labels in the order of the outputs; None: those of the training rows, sorted.

    Raises:
        UserError: for cells that are none of these, a label that is not known, and a table without rows of two.
    """
    found = {
        name: [
            flagged(table, row, label) if not isinstance(label, str) else listed(table, row, label, separator)
            for row in range(len(table))
        ]
        for name, table in tables.items()
    }
    counts = Counter(name for row in found["train"] for name in row or ())
    if isinstance(label, str):
        names = tuple(str(name).strip() for name in classes) if classes is not None else in_order(set(counts))
        parted = any(isinstance(cell, str) for cell in tables["train"].columns[label])
        check_names(names, counts, found["train"], label, separator if parted else None, classes is None)
        if inside := [name for name in names if separator in name]:
            raise UserError(
                f"data.label={label} has the label {inside[0]!r}, and data.separator={separator} would part it where "
                "the labels of a row are written as one text; set another data.separator"
            )
    elif classes is not None:
        raise UserError(
            "the columns in data.label name the labels, in the order of the outputs; leave out data.classes"
        )
    else:
        names = tuple(label)
    place = {name: number for number, name in enumerate(names)}
    for name, rows in found.items():
        for row, labels in enumerate(rows):
            if unknown := [one for one in labels or () if one not in place]:
                known = "data.classes" if classes is not None else "the training rows"
                more = ", ..." if len(names) > LISTED else ""
                raise UserError(
                    f"{tables[name].at(row)} has {unknown[0]!r} in column {label!r}, which is not among {known} "
                    f"({', '.join(names[:LISTED])}{more}); correct it, or set data.classes=[...]"
                )
    if absent := [name for name in names if name not in counts]:
        raise UserError(f"data.train has no row with the label {absent[0]!r}; give some, or leave it out")
    sets: dict[tuple[int, ...], int] = {}
    numbered = {
        name: np.array(
            [
                -1 if row is None else sets.setdefault(tuple(sorted({place[one] for one in row})), len(sets))
                for row in rows
            ]
        )
        for name, rows in found.items()
    }
    return numbered, names, tuple(sets)


def listed(table: Table, row: int, label: str, separator: str) -> list[str] | None:
    """The labels in one cell; None for a cell of which nothing is known."""
    value = table.columns[label][row]
    if value is None:
        return None
    names = value.split(separator) if isinstance(value, str) else value
    if not isinstance(names, list) or any(not isinstance(name, str | int) or isinstance(name, bool) for name in names):
        raise UserError(
            f"{table.at(row)} has {value!r} in column {label!r}; give the labels of the row as a list or with "
            f"{separator!r} between them"
        )
    stripped = [str(name).strip() for name in names]
    if isinstance(value, str):
        return [name for name in stripped if name]
    if not all(stripped):
        raise UserError(f"{table.at(row)} has an empty label in column {label!r}; leave it out of the list")
    return stripped


def flagged(table: Table, row: int, columns: Sequence[str]) -> list[str] | None:
    """The columns that are 1 in a row; None where all are empty."""
    cells = [table.columns[name][row] for name in columns]
    if all(map(missing, cells)):
        return None
    found = []
    for name, cell in zip(columns, cells, strict=True):
        word = str(cell).strip().lower()
        if missing(cell) or word not in YES | NO:
            has = "nothing" if missing(cell) else repr(cell)
            raise UserError(
                f"{table.at(row)} has {has} in column {name!r}; give 0 or 1 in each column of data.label, or leave "
                "all of the row's empty"
            )
        if word in YES:
            found.append(name)
    return found


def check_names(
    names: Sequence[str],
    counts: Mapping[str, int],
    rows: Sequence[list[str] | None],
    label: str,
    separator: str | None,
    found: bool,
) -> None:
    """Refuse a column that holds no several labels per row; ``separator`` None: lists, which may be of one each."""
    total = sum(row is not None for row in rows)
    if found and (len(counts) > MOST_CLASSES or (len(counts) > 10 and len(counts) > total / 2)):
        raise UserError(
            f"data.label={label} has {len(counts)} different labels in {total} rows, {next(iter(counts))!r} among "
            "them; name a column of labels, or set data.separator=... to what stands between them"
        )
    if len(set(names)) < max(2, len(names)):
        raise UserError(f"data.label={label} has the label(s) {list(names)}; give two or more, each once")
    if separator is not None and all(len(set(row)) < 2 for row in rows if row is not None):
        raise UserError(
            f"data.label={label} has no row with two labels, where {separator!r} stands between them; set "
            "data.separator=... to what does, or data.multilabel=false for one class per row"
        )


def rarest(labels: np.ndarray, sets: Sets, count: int) -> np.ndarray:
    """The label of each row ``(N,)`` that fewest rows have, ``count`` for a row without any, −1 for one not known.

    A cut that keeps these in proportion keeps the rare labels on both sides.
    """
    rows = [sets[one] if one >= 0 else () for one in labels.tolist()]
    counts = Counter(number for row in rows for number in row)
    found = [min(row, key=lambda number: (counts[number], number)) if row else count for row in rows]
    return np.where(labels < 0, -1, np.array(found, int))


def shares_of(targets: np.ndarray) -> tuple[float, ...]:
    """Of 0 and 1 ``(N, C)`` the share of the rows that have each label, in (0, 1) by Laplace's rule of succession."""
    return tuple(((targets.sum(0) + 1) / (len(targets) + 2)).tolist())
