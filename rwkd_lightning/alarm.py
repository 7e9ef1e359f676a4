"""Notices when a weighting method has stopped telling samples apart."""

from __future__ import annotations

from torch import Tensor


class CollapseAlarm:
    """Speaks once when all samples have given nearly all their weight to one term for a while.

    Args:
        terms: names, for the message.
        share: the mean share of one term above which the weights count as collapsed.
        patience: consecutive steps.
    """

    def __init__(self, terms: tuple[str, ...], share: float = 0.99, patience: int = 50) -> None:
        self.terms = terms
        self.share = share
        self.patience = patience
        self.count = 0

    def __call__(self, weights: Tensor) -> str | None:
        """Take the weights ``(B, K)`` of a step; return a message at the step on which patience runs out."""
        shares = (weights / weights.sum(1, keepdim=True).clamp_min(1e-12)).mean(0)
        largest, term = shares.max(0)
        if weights.shape[1] < 2 or not bool(largest >= self.share):
            self.count = 0
            return None
        self.count += 1
        if self.count != self.patience:
            return None
        return (f"the weights have collapsed: {float(largest):.1%} of all weight has gone to {self.terms[int(term)]!r} for "
                f"{self.patience} steps, so samples are no longer told apart; lower weighting.lr or raise "
                "weighting.entropy")
