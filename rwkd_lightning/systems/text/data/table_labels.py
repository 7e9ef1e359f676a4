"""The labels and weights in a table of a user's own: classes by name, or numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rwkd_lightning.data.table_file import Table
from rwkd_lightning.utils.errors import UserError

MOST_CLASSES = 1000
LISTED = 20
LARGEST = float(np.finfo(np.float32).max)
Labels = dict[str, np.ndarray]
"""The label of each row ``(N,)``, by table."""


def class_numbers(
    tables: Mapping[str, Table], label: str, classes: Sequence[Any] | None
) -> tuple[Labels, tuple[str, ...]]:
    """The class of each row by table, −1 without a label, and the names of the classes.

    Raises:
        UserError: for a label that is no class, a class that is not one of ``classes`` or of the training rows, one
            class only, and so many that they are no classes.
    """
    found = {
        name: [class_name(table, row, value, label) for row, value in enumerate(table.columns[label])]
        for name, table in tables.items()
    }
    seen = {name for name in found["train"] if name is not None}
    names = tuple(str(name).strip() for name in classes) if classes is not None else in_order(seen)
    count = sum(name is not None for name in found["train"])
    if classes is None and (len(seen) > MOST_CLASSES or (len(seen) > 10 and len(seen) > count / 2)):
        raise UserError(
            f"data.label={label} has {len(seen)} different values in {count} rows; name a column of classes, or set "
            "data.regression=true for numbers"
        )
    fractions = [name for name in names if re.fullmatch(r"[+-]?\d*[.]\d*[1-9]\d*", name)]
    if classes is None and fractions:
        raise UserError(
            f"data.label={label} holds numbers such as {fractions[0]}; set data.regression=true, or data.classes=[...] "
            "if they are names of classes"
        )
    if len(set(names)) < max(2, len(names)):
        raise UserError(f"data.label={label} has the class(es) {list(names)}; give two or more, each once")
    place = {name: number for number, name in enumerate(names)}
    for name, values in found.items():
        for row, value in enumerate(values):
            if value is not None and value not in place:
                known = "data.classes" if classes is not None else "the training rows"
                listed = ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")
                raise UserError(
                    f"{tables[name].at(row)} has {value!r} in column {label!r}, which is not among {known} ({listed}); "
                    "correct it, or set data.classes=[...]"
                )
    if absent := [name for name in names if name not in seen]:
        raise UserError(f"data.train has no row of class {absent[0]!r}; give some, or leave it out of data.classes")
    return {name: np.array([-1 if v is None else place[v] for v in values]) for name, values in found.items()}, names


def in_order(names: set[str]) -> tuple[str, ...]:
    """Class names sorted, as numbers where all of them are."""
    whole = all(re.fullmatch(r"[+-]?\d{1,15}", name) for name in names)
    return tuple(sorted(names, key=int) if whole else sorted(names))


def class_name(table: Table, row: int, value: Any, label: str) -> str | None:
    """The class that a value names; None for a row without one."""
    if missing(value):
        return None
    if isinstance(value, float) and not value.is_integer():
        raise UserError(f"{table.at(row)} has {value!r} in column {label!r}; set data.regression=true for numbers")
    if not isinstance(value, str | int | float):
        raise UserError(f"{table.at(row)} has {value!r} in column {label!r}; give one class per row")
    return value.strip() if isinstance(value, str) else str(int(value) if isinstance(value, float) else value)


def missing(value: Any) -> bool:
    """Whether a cell is empty."""
    blank = isinstance(value, str) and not value.strip()
    return value is None or blank or (isinstance(value, float) and math.isnan(value))


def numbers(tables: Mapping[str, Table], label: str) -> Labels:
    """The number of each row by table, NaN without one; UserError for a value that is none."""
    return {name: column_of_numbers(table, label) for name, table in tables.items()}


def weights(table: Table, name: str) -> np.ndarray:
    """The weight of each row, ``(N,)`` float32; UserError for one that is missing or negative."""
    values = column_of_numbers(table, name)
    wrong = np.flatnonzero(~(values >= 0))
    if len(wrong):
        row = int(wrong[0])
        raise UserError(
            f"{table.at(row)} has {table.columns[name][row]!r} in column {name!r}; give each row a weight of 0 or more"
        )
    return values


def column_of_numbers(table: Table, name: str) -> np.ndarray:
    """``(N,)`` float32, NaN for empty cells.

    Raises:
        UserError: for a value that is no finite number.
    """
    values = []
    for row, value in enumerate(table.columns[name]):
        try:
            number = math.nan if missing(value) or isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.inf
        if abs(number) > LARGEST or (math.isnan(number) and not missing(value)):
            raise UserError(f"{table.at(row)} has {value!r} in column {name!r}; give a finite number, as 0.5")
        values.append(number)
    return np.array(values, np.float32)
