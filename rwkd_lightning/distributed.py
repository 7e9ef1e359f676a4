"""Means over ranks for what `torch.autograd.grad` and per-batch statistics would otherwise keep local."""

from __future__ import annotations

import torch
from torch import Tensor


def world_size() -> int:
    """Processes in the group; 1 where none was started."""
    active = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if active else 1


def all_reduce_mean(value: Tensor) -> Tensor:
    """The mean of ``value`` over all ranks, detached; ``value`` itself in a single process."""
    if world_size() == 1:
        return value
    total = value.detach().clone()
    torch.distributed.all_reduce(total)
    return total / world_size()
