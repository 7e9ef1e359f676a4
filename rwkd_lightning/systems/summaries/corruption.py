"""Corruptions of training rows with a known truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LABELS, TEACHER = 61, 62  # of the seeds' streams


def dealt(families: Sequence[str], share: float, seed: int, stream: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of N rows the row whose text it gets, ``(N,)``, and flags ``(N,)``: a share of them are dealt round
    among each other. A row that would get one of its own family keeps its own and has no flag.
    """
    rows = np.random.default_rng([seed, stream]).permutation(len(families))[: round(share * len(families))]
    places = np.arange(len(families))
    for row, other in zip(rows, np.roll(rows, 1), strict=True):
        if families[row] != families[other]:
            places[row] = other
    return places, places != np.arange(len(families))
