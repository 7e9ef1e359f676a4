"""The part that every method trained by the bi-level step shares: its loss and its optimizer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rwkd_lightning.bilevel import normalised, surrogate_loss
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting.base import Step, Weighting, masked
from rwkd_lightning.weighting.gates import logarithm


class MetaLearned(Weighting):
    """A weighting whose parameters φ descend L_meta(θ̂(φ)) − τ·mean_i H(w_i), by Adam on normalised influences.

    The meta loss alone is linear in the weights, so its optimum is always a weight of 0 or 1, and a φ that commits
    before the student knows anything confirms itself. With the entropy term the optimum is w = softmax(E[u |
    features]/τ): as far from uniform as the evidence, u in units of its mean size, is from nothing.

    Args:
        lr: Adam's rate for φ, > 0.
        entropy: τ ≥ 0; 0 is the plain form. For methods whose weights are a distribution over the terms; others leave
            it at 0.

    Raises:
        UserError: if lr or entropy is out of range.
    """

    needs_influence = True
    collapse_remedy: str | None = "lower `weighting.lr` or raise `weighting.entropy`"

    def __init__(self, lr: float, entropy: float = 0.0) -> None:
        super().__init__()
        if not lr > 0:
            raise UserError(f"`lr` is {lr}; the meta-learner's rate must be above 0")
        if not entropy >= 0:
            raise UserError(f"`entropy` is {entropy}; it must be 0 (the plain form) or above")
        self.lr = lr
        self.entropy = entropy

    def own_loss(self, step: Step) -> Tensor | None:
        """−mean_i Σ_k (û_ik − τ·s_ik)·w_ik with the detached s = −∂H/∂w, whose gradient is that of −mean Σ û·w − τ·H.
        Where the weights are a distribution, so is its value.
        """
        if step.influence is None:
            return None
        weights, worth = masked(self(step), step.valid), unit_influence(step)
        if self.entropy:
            with torch.no_grad():
                worth = torch.sub(worth, self.entropy_slope(weights), alpha=self.entropy)
        return surrogate_loss(weights, worth)

    def entropy_slope(self, weights: Tensor) -> Tensor:
        """−∂H/∂w ``(B, K)`` at masked weights ``(B, K)``, a distribution over the terms unless a method says otherwise;
        see ``Gate.entropy_slope``.
        """
        return logarithm(weights)

    def own_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr, fused=True)


def unit_influence(step: Step) -> Tensor:
    """u ``(B, K)`` of a step that has one, in units of its mean size over all ranks."""
    influence = step.influence
    assert influence is not None
    unit: Tensor = step.once("unit influence", None, lambda: normalised(influence))
    return unit


def in_full_precision(network: nn.Module, inputs: Tensor) -> Tensor:
    """``network(inputs)`` without autocast, which would round the weights and φ's gradient to half precision."""
    with torch.autocast(inputs.device.type, enabled=False):
        outputs: Tensor = network(inputs)
    return outputs
