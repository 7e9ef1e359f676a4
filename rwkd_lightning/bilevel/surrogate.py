"""From influence to the meta-learner's gradient: ∇_φ L_meta = Σ_ik (∂L_meta/∂w_ik)·∇_φ w_ik."""

from __future__ import annotations

from torch import Tensor

from rwkd_lightning.utils.distributed import all_reduce_mean


def surrogate_loss(weights: Tensor, influence: Tensor, step: float = 1.0) -> Tensor:
    """A scalar whose gradient by φ is that of the meta loss: −(a/n) Σ_ik u_ik·w_ik(φ), equation (1) of ``engine``.

    Args:
        weights: w(φ) ``(B, K)``, with the meta-learner's graph.
        influence: u ``(B, K)``, a constant.
        step: a; only scales the gradient.
    """
    return (influence.detach() * weights).sum() * (-step / len(weights))


def normalised(influence: Tensor) -> Tensor:
    """u divided by its mean absolute value, over all ranks.

    a and 1/n only scale the gradient by φ; unscaled, at a = 2e-5, it sinks below Adam's ε. One entry that is not finite
    makes all of them NaN, on every rank: it is no evidence, and left out it would go unnoticed.
    """
    return in_units_of(all_reduce_mean(influence.abs().mean()), influence)


def in_units_of(size: Tensor, influence: Tensor, epsilon: float = 1e-30) -> Tensor:
    """u divided by a mean absolute value; 0 where that is 0."""
    return influence / size.clamp_min(epsilon)
