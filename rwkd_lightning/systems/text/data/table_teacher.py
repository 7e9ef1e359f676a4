"""What a teacher has said of the rows of a table, in columns of it: probabilities, logits, or its likeliest classes."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rwkd_lightning.data.table_file import Table
from rwkd_lightning.systems.text.data.table_labels import missing
from rwkd_lightning.utils.errors import UserError

log = logging.getLogger(__name__)

SMALLEST = 1e-6
"""A class's least probability: the logarithm of 0 would be no logit."""
TOLERANCE = 0.02
"""How far the sum of the probabilities of a row may be from 1, as those of a file are rounded."""

Spec = str | Sequence[str] | Mapping[str, str]
"""One column per class in their order, one per class by its name, or a single one whose cells hold those of all."""


class TeacherColumns:
    """The columns that hold the teacher's outputs.

    Args:
        probabilities: columns of probabilities of the classes.
        logits: columns of logits; for a regression, the one column of the teacher's number.
        logprobs: one column of the likeliest classes with their log-probabilities: ``{"yes": -0.1, "no": -2.4}``, or
            a list of objects with ``token`` and ``logprob`` as language models give them.

    Raises:
        UserError: if several are given.
    """

    def __init__(
        self, probabilities: Spec | None = None, logits: Spec | None = None, logprobs: str | None = None
    ) -> None:
        kinds = {"probabilities": probabilities, "logits": logits, "logprobs": logprobs}
        given = {kind: spec for kind, spec in kinds.items() if spec is not None}
        if len(given) > 1:
            names = " and ".join(f"data.teacher_{kind}" for kind in given)
            raise UserError(f"{names} say what the teacher's outputs are; give one of them")
        self.kind, self.spec = next(iter(given.items()), ("", []))

    @property
    def setting(self) -> str:
        """The key that names them, for messages."""
        return f"data.teacher_{self.kind}"

    @property
    def names(self) -> list[str]:
        """All columns to read; empty: the table holds nothing of a teacher's."""
        if isinstance(self.spec, str):
            return [self.spec]
        return list(self.spec.values() if isinstance(self.spec, Mapping) else self.spec)

    def logits(self, table: Table, classes: tuple[str, ...] | None, multilabel: bool = False) -> np.ndarray:
        """The teacher's logits ``(N, C)`` float32, NaN in rows of which it says nothing.

        Log-probabilities are logits, since a softmax leaves them as they are. Of the likeliest classes alone, texts
        that name no class are left out, and each class that is not listed gets its part of the probability that is
        left, at most that of the least likely one listed; the sum is made 1.

        Args:
            classes: their names in the order of the outputs; None for a regression.
            multilabel: each probability is that of a label of its own.

        Raises:
            UserError: for columns that do not match the classes, and cells that are no such outputs, naming the row.
        """
        if classes is None and (self.kind != "logits" or len(self.names) != 1):
            raise UserError(
                f"{self.setting}={shown(self.spec)}: data.regression=true takes one column of the teacher's numbers, "
                "data.teacher_logits=COLUMN"
            )
        if multilabel and self.kind == "logprobs":
            raise UserError(
                "data.teacher_logprobs tells one class from the others, and data.multilabel=true has several labels "
                "per row; give data.teacher_probabilities"
            )
        order = self.columns_of(classes)
        found = np.full((len(table), max(1, len(classes or ()))), np.nan, np.float32)
        for row in range(len(table)):
            values = self.values(table, row, order, classes)
            if values is not None:
                found[row] = self.as_logits(values, f"{table.at(row)}, {self.setting}", multilabel)
        return found

    def columns_of(self, classes: tuple[str, ...] | None) -> list[str] | None:
        """The column of each class; None where one column holds all of them."""
        if isinstance(self.spec, str):
            return None if classes is not None else [self.spec]
        if isinstance(self.spec, Mapping):
            columns = {str(name).strip(): column for name, column in self.spec.items()}
            if set(columns) != set(classes or ()):
                raise UserError(
                    f"{self.setting} names the classes {', '.join(columns)}, and the labels are "
                    f"{', '.join(classes or ())}; give each of these a column"
                )
            return [columns[name] for name in classes or ()]
        if classes is not None and len(self.spec) != len(classes):
            raise UserError(
                f"{self.setting}={shown(self.spec)} names {len(self.spec)} columns, and there are {len(classes)} "
                f"classes: {', '.join(classes)}; give one column for each, in this order"
            )
        return list(self.spec)

    def values(
        self, table: Table, row: int, order: list[str] | None, classes: tuple[str, ...] | None
    ) -> list[float] | None:
        """The numbers of a row in the order of the classes; None for a row without any."""
        if order is not None:
            cells = [table.columns[name][row] for name in order]
            if all(map(missing, cells)):
                return None
            return [self.number(table, row, name, cell) for name, cell in zip(order, cells, strict=True)]
        name, classes = self.names[0], classes or ()
        cell = table.columns[name][row]
        if missing(cell):
            return None
        cell = parsed(cell)
        if self.kind == "logprobs":
            listed = pairs(cell)
            if listed is None:
                raise UserError(
                    f"{table.at(row)} has {brief(cell)} in column {name!r}; give the likeliest classes with their "
                    'log-probabilities, {"yes": -0.1, "no": -2.4} or [{"token": "yes", "logprob": -0.1}, ...]'
                )
            return spread([(token, self.number(table, row, name, value)) for token, value in listed], classes)
        if isinstance(cell, Mapping):
            cell = [cell.get(label) for label in classes] if set(cell) == set(classes) else None
        if not isinstance(cell, list) or len(cell) != len(classes):
            raise UserError(
                f"{table.at(row)} has {brief(table.columns[name][row])} in column {name!r}; give a list of "
                f"{len(classes)} numbers, one for each of {', '.join(classes)}"
            )
        return [self.number(table, row, name, value) for value in cell]

    def number(self, table: Table, row: int, name: str, value: Any) -> float:
        """A cell as a finite number."""
        try:
            number = math.nan if isinstance(value, bool) or missing(value) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise UserError(
                f"{table.at(row)} has {brief(value)} in column {name!r} of {self.setting}; give a finite number, or "
                "leave all of the row's empty where the teacher says nothing"
            )
        return number

    def as_logits(self, values: Sequence[float], where: str, multilabel: bool = False) -> list[float]:
        """Logits of one row."""
        if self.kind == "logits":
            return list(values)
        if multilabel:
            if wrong := [value for value in values if not 0 <= value <= 1]:
                raise UserError(f"{where}: {wrong[0]:g} is no probability; give these, or name data.teacher_logits")
            shares = [min(max(value, SMALLEST), 1 - SMALLEST) for value in values]
            return [math.log(share / (1 - share)) for share in shares]
        if min(values) < 0 or abs(sum(values) - 1) > TOLERANCE:
            raise UserError(
                f"{where}: {', '.join(f'{value:g}' for value in values)} are no probabilities with the sum 1; give "
                "these, or name them as data.teacher_logits"
            )
        return [math.log(max(value / sum(values), SMALLEST)) for value in values]


def parsed(cell: Any) -> Any:
    """A cell that is JSON's text, read; any other as it is."""
    if not isinstance(cell, str):
        return cell
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        return cell


def pairs(cell: Any) -> list[tuple[str, Any]] | None:
    """Texts with log-probabilities; None for a cell that holds no such."""
    if isinstance(cell, Mapping):  # of Parquet's structs each row has all keys
        return [(str(token), value) for token, value in cell.items() if value is not None]
    if not isinstance(cell, list):
        return None
    found: list[tuple[str, Any]] = []
    for one in cell:
        if isinstance(one, Mapping) and {"token", "logprob"} <= set(one):
            found.append((str(one["token"]), one["logprob"]))
        elif isinstance(one, list | tuple) and len(one) == 2:  # also of Parquet's maps
            found.append((str(one[0]), one[1]))
        else:
            return None
    return found


def spread(listed: Sequence[tuple[str, float]], classes: Sequence[str]) -> list[float] | None:
    """Probabilities of all classes from the likeliest ones; None where no class is among them."""
    number = {name.casefold(): place for place, name in enumerate(classes)}
    shares = [0.0] * len(classes)
    named: set[int] = set()
    for token, logprob in listed:
        place = number.get(token.strip().casefold())
        if place is not None:
            shares[place] += math.exp(min(logprob, 0.0))
            named.add(place)
    if not named:
        return None
    left = max(0.0, 1 - sum(math.exp(min(logprob, 0.0)) for _, logprob in listed))
    least = min(math.exp(min(logprob, 0.0)) for _, logprob in listed)
    others = [place for place in range(len(classes)) if place not in named]
    for place in others:
        shares[place] = min(least, left / len(others))
    total = sum(shares)
    return [share / total for share in shares] if total > 0 else None


def brief(value: Any) -> str:
    """A cell for a message."""
    text = "nothing" if missing(value) else repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def shown(spec: Spec) -> str:
    """The columns as they are typed."""
    return spec if isinstance(spec, str) else f"[{','.join(spec)}]"


def check_order(logits: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], columns: TeacherColumns) -> None:
    """Log how often teacher and labels agree, and refuse columns that are plainly those of other classes.

    Args:
        logits: ``(N, C)`` of the training rows, NaN where the teacher says nothing.
        labels: ``(N,)``, −1 without one.

    Raises:
        UserError: if another order of the columns agrees with most labels, and this one with less than half as many.
            Columns given by name are believed.
    """
    both = np.isfinite(logits[:, 0]) & (labels >= 0)
    log.info("the teacher's outputs are there for %d of %d training rows", np.isfinite(logits[:, 0]).sum(), len(logits))
    if not both.any():
        return
    said, true = logits[both].argmax(1), labels[both]
    counts = np.zeros((len(classes), len(classes)), int)
    np.add.at(counts, (said, true), 1)
    agreed, best = np.trace(counts) / len(true), counts.max(1).sum() / len(true)
    log.info("teacher and label agree in %.1f%% of them", 100 * agreed)
    means = counts.argmax(1)
    if not isinstance(columns.spec, Mapping) and best > 0.5 > 2 * agreed / best and len(set(means)) == len(classes):
        order = ", ".join(f"{classes[means[place]]!r}" for place in range(len(classes)))
        raise UserError(
            f"{columns.setting} agrees with {agreed:.0%} of the labels in the order {', '.join(classes)}, and with "
            f"{best:.0%} if its columns are of {order}; name them: {columns.setting}="
            f"{{{','.join(f'{name}: COLUMN' for name in classes)}}}"
        )
