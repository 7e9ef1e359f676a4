"""Notices when a weighting method has stopped telling samples apart, or has stopped weighting them at all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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

    def __call__(self, weights: Tensor) -> str | None:
        """Take the weights ``(B, K)`` of a step; return a message at the step on which patience runs out; of no rows,
        nothing.
        """
        figures = self.figures(weights, weights.new_ones(len(weights), dtype=torch.bool))
        return self.take([] if figures is None else figures.tolist())

    def figures(self, weights: Tensor, rows: Tensor) -> Tensor | None:
        """What ``take`` reads of the weights ``(R, K)`` of a step, in the rows ``(R,)`` that are true.

        ``(K + 2,)``: their number, the largest total weight, and the sum of each column; None where there is no alarm.
        """
        if self.remedy is None or weights.shape[1] < 2 or not len(weights):
            return None
        kept = weights * rows[:, None]
        return torch.cat([rows.sum()[None], kept.sum(1).amax()[None], kept.sum(0)])

    def take(self, figures: Sequence[float]) -> str | None:
        """Take the figures of a step; as ``__call__``."""
        if figures and not figures[0]:  # no rows
            return None
        found = self.finding(*figures) if figures else None
        self.count = self.count + 1 if found else 0
        return f"{found}; {self.remedy}" if self.count == self.patience else None

    def finding(self, rows: float, most: float, *columns: float) -> str | None:
        """The warning about a step, by its figures."""
        mean = sum(columns) / rows
        if mean < 1 - self.share:
            return (
                f"the weights have vanished: for {self.patience} steps a sample has had less than {1 - self.share:.0%}"
                f" of a weight, {mean:.2g} at last, so the student hardly learns"
            )
        # against the largest total: samples of which some weigh less than others still differ, be it on one term alone
        largest = max(columns) / rows / most
        if not largest >= self.share:
            return None
        return (
            f"the weights have collapsed: {largest:.1%} of all weight has gone to "
            f"{self.terms[columns.index(max(columns))]!r} for "
            f"{self.patience} steps, so samples are no longer distinguished"
        )
