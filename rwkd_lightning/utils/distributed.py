"""Values that several processes must share: `torch.autograd.grad` runs no DDP hook."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def world_size() -> int:
    """Processes in the group; 1 where none was started."""
    active = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if active else 1


def rank() -> int:
    """This process among them, from 0."""
    return torch.distributed.get_rank() if world_size() > 1 else 0


def all_reduce_mean(value: Tensor) -> Tensor:
    """The mean of ``value`` over all ranks, detached; ``value`` itself in a single process."""
    if world_size() == 1:
        return value
    total = value.detach().clone()
    torch.distributed.all_reduce(total)
    return total / world_size()


def on_any_rank(*flags: bool, device: torch.device) -> list[bool]:
    """Each flag, true on all ranks where it is on one: a decision that all of them take together."""
    if world_size() == 1:
        return list(flags)
    raised = torch.tensor(flags, dtype=torch.float32, device=device)
    torch.distributed.all_reduce(raised, torch.distributed.ReduceOp.MAX)
    return raised.bool().tolist()


def all_reduce_means(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``all_reduce_mean`` of many tensors by name, in one message."""
    if world_size() == 1:
        return dict(values)
    flat = all_reduce_mean(torch.cat([v.flatten() for v in values.values()]))
    parts = torch.split(flat, [v.numel() for v in values.values()])
    return {name: part.view_as(v) for (name, v), part in zip(values.items(), parts, strict=True)}


def gather_rows(rows: Tensor) -> Tensor:
    """The rows ``(B, ...)`` of all ranks one after the other, ``(world·B, ...)``, detached; each rank has B of them."""
    if world_size() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    torch.distributed.all_gather(parts, rows.detach().contiguous())
    return torch.cat(parts)


def gather_together(*tensors: Tensor) -> list[Tensor]:
    """``gather_rows`` of several tensors ``(B, ...)`` of whatever types, in one message."""
    if world_size() == 1:
        return list(tensors)
    flat = [t.detach().flatten(1) if t.ndim > 1 else t.detach()[:, None] for t in tensors]
    packed = gather_rows(torch.cat([t.contiguous().view(torch.uint8) for t in flat], 1))
    parts = torch.split(packed, [t.shape[1] * t.element_size() for t in flat], 1)
    return [part.contiguous().view(t.dtype).view(-1, *t.shape[1:]) for part, t in zip(parts, tensors, strict=True)]


def gather_objects(value: object) -> list[Any]:
    """One value of each rank, in the order of the ranks."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def share(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """This rank's rows of a batch that all ranks have: every ``world``-th, or all if they cannot be dealt evenly."""
    size = next(iter(batch.values())).shape[0]
    if world_size() == 1 or size % world_size():
        return dict(batch)
    return {name: value[rank() :: world_size()] if value.ndim else value for name, value in batch.items()}
