"""Linear classifiers on the states of all blocks at once; the body is frozen, so they do not depend on each other."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

EPOCHS, RATE, BATCH, LEAST = 10, 1e-3, 32, 1000
"""Not known of the paper; those of its relatives, and of few rows as many epochs as make LEAST steps."""


class Heads(NamedTuple):
    """W ``(L, C, H)`` and b ``(L, C)``."""

    weight: Tensor
    bias: Tensor

    def __call__(self, states: Tensor) -> Tensor:
        """Logits ``(N, L, C)`` of states ``(N, L, H)``."""
        return torch.einsum("nlh,lch->nlc", states.float(), self.weight) + self.bias


def train_heads(states: Tensor, labels: Tensor, classes: int, seed: int) -> Heads:
    """Heads that minimise the cross-entropy of each block's states, by AdamW.

    Args:
        states: ``(N, L, H)``, of any floating dtype.
        labels: ``(N,)``, from 0.
        seed: of the start and of the order of the rows; nothing else is drawn.
    """
    draw = torch.Generator().manual_seed(seed)
    _, blocks, width = states.shape
    # states of different blocks differ in size by an order of magnitude, which one rate would not suit
    mean, deviation = states.float().mean(0), states.float().std(0).clamp_min(1e-6)
    weight = ((torch.rand(blocks, classes, width, generator=draw) * 2 - 1) / width**0.5).requires_grad_()
    bias = torch.zeros(blocks, classes, requires_grad=True)
    optimizer = torch.optim.AdamW([weight, bias], RATE)
    with torch.enable_grad():
        for _ in range(max(EPOCHS, -(-LEAST * BATCH // len(states)))):
            order: Tensor = torch.randperm(len(states), generator=draw)
            for start in range(0, len(order), BATCH):
                rows = order[start : start + BATCH]
                logits = Heads(weight, bias)((states[rows].float() - mean) / deviation)
                loss = F.cross_entropy(logits.flatten(0, 1), labels[rows].repeat_interleave(blocks)) * blocks
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
    folded = weight.detach() / deviation[:, None]
    return Heads(folded, bias.detach() - torch.einsum("lch,lh->lc", folded, mean))
