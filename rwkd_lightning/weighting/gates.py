"""The gate: how the meta-network's outputs become weights. Every gate gives 1/K to each of K terms where the outputs
are 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from rwkd_lightning.utils.errors import UserError


class Gate(nn.Module, ABC):
    """Logits ``(B, width(K))`` to weights ``(B, K)``.

    Args:
        bound: c > 0: logits g become c·tanh(g/c), in (−c, c), so that no weight reaches an end of its range; None: as
            they are.

    Raises:
        UserError: if bound is out of range.
    """

    def __init__(self, bound: float | None = None) -> None:
        super().__init__()
        if bound is not None and not 0 < bound < float("inf"):
            raise UserError(f"`bound` is {bound}; it must be above 0, or `bound=None` for logits without one")
        self.bound = bound

    def width(self, terms: int) -> int:
        """How many logits weights for K terms take."""
        return terms

    @abstractmethod
    def forward(self, logits: Tensor) -> Tensor:
        """Weights ``(B, K)``, at least 0."""

    @abstractmethod
    def entropy_slope(self, weights: Tensor) -> Tensor:
        """−∂H/∂w ``(B, K)`` at weights ``(B, K)``, those of terms without a value taken away; finite also where such a
        weight is 0. What is the same for all weights that share a fixed total may be left out.
        """

    def without_invalid(self, weights: Tensor, valid: Tensor) -> Tensor:
        """Weights ``(B, K)`` before ``base.masked``, which deals out the share of a term without a value."""
        return weights

    def bounded(self, logits: Tensor) -> Tensor:
        """The logits within the bound."""
        return logits if self.bound is None else self.bound * torch.tanh(logits / self.bound)

    def __repr__(self) -> str:
        bound = "" if self.bound is None else f"({self.bound:g})"
        return f"{type(self).__name__.lower()}{bound}"


class Softmax(Gate):
    """w = softmax(g): shares of 1. Within a bound c, no term gets more than exp(2c) times another's weight."""

    def forward(self, logits: Tensor) -> Tensor:
        return self.bounded(logits).softmax(1)

    def entropy_slope(self, weights: Tensor) -> Tensor:
        return logarithm(weights)


class Sigmoid(Gate):
    """w_k = (2/K)·σ(g_k): each in [0, 2/K], whatever the others are; a sample may have much of all terms, or of none.

    The terms do not compete, so one without a value takes its own weight with it and leaves the others as they are. H
    is the sum of the terms' Bernoulli entropies, at σ(g_k).
    """

    def forward(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(self.bounded(logits)) * (2 / logits.shape[1])

    def entropy_slope(self, weights: Tensor) -> Tensor:
        scale = weights.shape[1] / 2
        p = weights * scale
        return scale * (logarithm(p) - logarithm(1 - p))

    def without_invalid(self, weights: Tensor, valid: Tensor) -> Tensor:
        return torch.where(valid, weights, 0.0)


class Reject(Gate):
    """w_k = (K + 1)/K·p_k with p = softmax(g) over K + 1, the last of which stands for no term: a sample may be left
    out.

    What is not rejected is shared between the terms, so the share of one without a value goes to the others, and how
    much is rejected stays. H is the entropy of all K + 1.
    """

    def width(self, terms: int) -> int:
        return terms + 1

    def forward(self, logits: Tensor) -> Tensor:
        terms = logits.shape[1] - 1
        return self.bounded(logits).softmax(1)[:, :-1] * ((terms + 1) / terms)

    def entropy_slope(self, weights: Tensor) -> Tensor:
        scale = weights.shape[1] / (weights.shape[1] + 1)
        p = weights * scale
        return scale * (logarithm(p) - logarithm(1 - p.sum(1, keepdim=True)))


def logarithm(p: Tensor) -> Tensor:
    """log p, and that of 1e-12 below it."""
    return p.clamp_min(1e-12).log()
