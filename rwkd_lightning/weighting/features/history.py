"""Inputs of the meta-network from a sample's earlier visits; 0 at the first, and without a ledger.

None of them reads ``step.influence``, the influence of this step. φ descends a loss that is linear in it, so a network
that had it as an input could read off the answer; and it is an input that is not there before the meta step of the same
batch, nor on steps without one. What an earlier visit left is the same at every pass of a step, and says how well the
past foretells.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rwkd_lightning.weighting.base import Step


class EarlierInfluence(nn.Module):
    """Mean normalised influence of each term over the earlier visits with a meta step, without this one: ``(B, K)``.

    Args:
        terms: names of the K loss terms.
    """

    def __init__(self, terms: Sequence[str]) -> None:
        super().__init__()
        self.width = len(terms)

    @torch.no_grad()
    def forward(self, step: Step) -> Tensor:
        history = step.history
        return torch.zeros_like(step.losses) if history is None else history.influence.to(step.losses.dtype)


class EarlierWeights(nn.Module):
    """The weights that the student used at the last visit: ``(B, K)``.

    Args:
        terms: names of the K loss terms.
    """

    def __init__(self, terms: Sequence[str]) -> None:
        super().__init__()
        self.width = len(terms)

    @torch.no_grad()
    def forward(self, step: Step) -> Tensor:
        history = step.history
        return torch.zeros_like(step.losses) if history is None else history.weights.to(step.losses.dtype)


class Visits(nn.Module):
    """log1p of the number of earlier visits with a meta step: ``(B, 1)``."""

    width = 1

    @torch.no_grad()
    def forward(self, step: Step) -> Tensor:
        history = step.history
        if history is None:
            return step.losses.new_zeros(len(step.losses), 1)
        return history.count.to(step.losses.dtype).log1p()
