"""Notices when a weighting method has stopped telling samples apart, or has stopped weighting them at all."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


class CollapseAlarm:
    """Speaks once when all samples have given nearly all their weight to one term for a while, or none to any term.

    Args:
        terms: names, for the message.
        remedy: what to change then, for the message; None: the method sets the terms' shares itself, so there is no
            alarm.
        share: the share of one term above which the weights count as collapsed; 1 − share is the mean weight of a
            sample, all its terms together, below which they count as vanished.
        patience: consecutive steps.
    """

    def __init__(
        self, terms: tuple[str, ...], remedy: str | None = "look at weighting", share: float = 0.99, patience: int = 50
    ) -> None:
        self.terms = terms
        self.remedy = remedy
        self.share = share
        self.patience = patience
        self.count = 0

    def __call__(self, weights: ArrayLike, valid: ArrayLike | None = None) -> str | None:
        """Take the weights ``(R, K)`` of a step; return a message at the step on which patience runs out.

        Rows in which a term is not ``valid`` ``(R, K)`` have no choice and do not count; of no rows, nothing.
        """
        rows = np.asarray(weights, dtype=np.float64)
        if valid is not None:
            rows = rows[np.asarray(valid, dtype=bool).all(1)]
        if self.remedy is None or rows.shape[1] < 2 or not len(rows):
            return None
        found = self.finding(rows)
        self.count = self.count + 1 if found else 0
        return f"{found}; {self.remedy}" if self.count == self.patience else None

    def finding(self, rows: NDArray[np.float64]) -> str | None:
        """The warning about the weights ``(R, K)`` of a step."""
        columns, most = rows.mean(0), rows.sum(1).max()
        mean = columns.sum()
        if mean < 1 - self.share:
            return (
                f"the weights have vanished: for {self.patience} steps a sample has had less than {1 - self.share:.0%}"
                f" of a weight, {mean:.2g} at last, so the student hardly learns"
            )
        # against the largest total: samples of which some weigh less than others still differ, be it on one term alone
        largest = columns.max() / most
        if not largest >= self.share:
            return None
        return (
            f"the weights have collapsed: {largest:.1%} of all weight has gone to {self.terms[columns.argmax()]!r} for "
            f"{self.patience} steps, so samples are no longer distinguished"
        )
