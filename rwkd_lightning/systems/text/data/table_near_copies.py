"""Near-copies among the rows of a table: which rows a cut may not part, and what is said of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from rwkd_lightning.systems.text.data.near_copies import NearCopies
from rwkd_lightning.utils.errors import UserError

log = logging.getLogger(__name__)
LARGE = 0.1
"""Of the rows: a larger group of near-copies is reported, since no part of a tenth can have it."""
FEW = 10
"""Distinct texts of a group that is never too large."""
SHOWN = 70


def copies_of(
    keys: Mapping[str, Sequence[str]], texts: Mapping[str, Sequence[Sequence[str]]], threshold: float | None
) -> Sequence[str]:
    """For each row of ``train`` the key of the first text that it is a copy of, itself included; logs what it finds.

    Args:
        keys: of the rows by table: equal for equal texts.
        texts: by table and column, to be shown.
        threshold: the Jaccard similarity of near-copies; None: a text is a copy of equal ones alone.
    """
    if threshold is None:
        return keys["train"]
    if not 0.5 <= threshold <= 1:
        raise UserError(f"data.near_copies is {threshold}; give a number from 0.5 to 1, or null")
    row_of: dict[str, int] = {}
    for row, key in enumerate(keys["train"]):
        row_of.setdefault(key, row)
    distinct = list(row_of)

    def text(number: int) -> str:
        return shown(texts["train"], row_of[distinct[number]])

    found = NearCopies(distinct, threshold)
    first = found.groups()
    later = np.flatnonzero(first != np.arange(len(first)))
    if len(later):
        log.info(
            "%d near-copies are kept with an earlier text (data.near_copies=%g), such as %s with %s",
            len(later),
            threshold,
            text(later[0]),
            text(first[later[0]]),
        )
    number_of = dict(zip(distinct, first.tolist(), strict=True))
    copies = [number_of[key] for key in keys["train"]]
    rows, kinds = np.bincount(copies), np.bincount(first)
    largest = int(rows.argmax())
    if rows[largest] > LARGE * len(copies) and kinds[largest] > FEW:
        some = np.flatnonzero(first == largest)
        log.warning(
            "%d of the %d rows are one chain of near-copies, such as %s, %s and %s: no cut parts them, so that one side"
            " has all of them; where they are texts of one template, raise data.near_copies=%g, or set"
            " data.near_copies=null",
            rows[largest],
            len(copies),
            text(some[0]),
            text(some[1]),
            text(some[-1]),
            threshold,
        )
    for name in ("validation", "test"):
        if name in keys:
            others = list(dict.fromkeys(key for key in keys[name] if key not in row_of))
            copied = {key: number for key, number in zip(others, found.of(others).tolist(), strict=True) if number >= 0}
            which = [row for row, key in enumerate(keys[name]) if key in copied]
            if which:
                log.warning(
                    "%d of the %d rows of data.%s are near-copies of a text of data.train, such as %s of %s",
                    len(which),
                    len(keys[name]),
                    name,
                    shown(texts[name], which[0]),
                    text(copied[keys[name][which[0]]]),
                )
    return [distinct[number] for number in copies]


def shown(columns: Sequence[Sequence[str]], row: int) -> str:
    """The text of a row in quotes, or two, on one line and not longer than `SHOWN`."""
    text = " / ".join(" ".join(column[row].split()) for column in columns)
    return repr(text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}...")
