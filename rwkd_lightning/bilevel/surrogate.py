"""From influence to the meta-learner's gradient: ∇_φ L_meta = Σ_ik (∂L_meta/∂w_ik)·∇_φ w_ik."""

from __future__ import annotations

import torch
from torch import Tensor

from rwkd_lightning.distributed import all_reduce_mean


def surrogate_loss(weights: Tensor, influence: Tensor, step: float = 1.0) -> Tensor:
    """A scalar whose gradient by φ is that of the meta loss: −(a/n) Σ_ik u_ik·w_ik(φ), equation (1) of ``engine``.

    Args:
        weights: w(φ) ``(B, K)``, with the meta-learner's graph.
        influence: u ``(B, K)``, a constant.
        step: a; only scales the gradient.
    """
    return -step * (influence.detach() * weights).sum(1).mean()


def normalised(influence: Tensor, epsilon: float = 1e-30) -> Tensor:
    """u divided by its mean absolute value, over all ranks.

    a and 1/n only scale the gradient by φ; unscaled, at a = 2e-5, it sinks below Adam's ε.
    """
    return influence / all_reduce_mean(influence.abs().mean()).clamp_min(epsilon)


def finite(influence: Tensor) -> Tensor:
    """u without entries that are not finite, which would poison the meta-learner for good."""
    return torch.where(torch.isfinite(influence), influence, 0.0)
