"""The student's optimizer and schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from rwkd_lightning.utils.errors import UserError


def adamw(
    module: nn.Module, lr: float, weight_decay: float = 0.01, betas: Sequence[float] = (0.9, 0.999)
) -> torch.optim.AdamW:
    """AdamW without decay on biases and normalisation weights (one-dimensional parameters).

    Raises:
        UserError: if lr is not positive or weight_decay is negative.
    """
    if not lr > 0:
        raise UserError(f"`lr` is {lr}; the student's learning rate must be above 0")
    if not weight_decay >= 0:
        raise UserError(f"`weight_decay` is {weight_decay}; it must be 0 or above")
    trainable = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    first, second = betas
    return torch.optim.AdamW(groups, lr=lr, betas=(first, second), fused=True)


def adam(module: nn.Module, lr: float, betas: Sequence[float] = (0.9, 0.999)) -> torch.optim.Adam:
    """Adam without weight decay; UserError if lr is not positive."""
    if not lr > 0:
        raise UserError(f"`lr` is {lr}; the student's learning rate must be above 0")
    first, second = betas
    return torch.optim.Adam(
        [p for p in module.parameters() if p.requires_grad], lr=lr, betas=(first, second), fused=True
    )


def linear_schedule(optimizer: torch.optim.Optimizer, total_steps: int, warmup: float = 0.1) -> LambdaLR:
    """Linear warm-up over a share of the steps, then linear decay to 0 at ``total_steps``.

    Raises:
        UserError: if warmup is outside [0, 1).
    """
    return warmed_up(optimizer, total_steps, warmup, lambda left: left)


def cosine_schedule(optimizer: torch.optim.Optimizer, total_steps: int, warmup: float = 0.1) -> LambdaLR:
    """Linear warm-up over a share of the steps, then half a cosine to 0; UserError as `linear_schedule`."""
    return warmed_up(optimizer, total_steps, warmup, lambda left: (1 - math.cos(math.pi * left)) / 2)


def constant_schedule(optimizer: torch.optim.Optimizer, total_steps: int, warmup: float = 0.0) -> LambdaLR:
    """Linear warm-up over a share of the steps, then the optimizer's own rate; UserError as `linear_schedule`."""
    return warmed_up(optimizer, total_steps, warmup, lambda left: 1.0)


def warmed_up(
    optimizer: torch.optim.Optimizer, total_steps: int, warmup: float, decay: Callable[[float], float]
) -> LambdaLR:
    """A linear warm-up over a share of the steps, then ``decay`` of the share of the other steps left, from 1 to 0.

    Raises:
        UserError: if warmup is outside [0, 1).
    """
    if not 0 <= warmup < 1:
        raise UserError(f"`warmup` is {warmup}; the share of warm-up steps must lie in [0, 1)")
    ramp = max(1, round(warmup * total_steps)) if warmup > 0 else 0

    def factor(step: int) -> float:
        if step < ramp:
            return (step + 1) / (ramp + 1)
        return decay(max(0.0, (total_steps - step) / max(1, total_steps - ramp)))

    return LambdaLR(optimizer, factor)
