"""The mean loss of each term, for methods that weight terms and not samples."""

from __future__ import annotations

import torch
from torch import Tensor

from rwkd_lightning.utils.distributed import all_reduce_mean
from rwkd_lightning.weighting.base import Step


def sums_and_counts(step: Step) -> tuple[Tensor, Tensor]:
    """Sum of each term over the samples where it has a value, and how many these are: both ``(K,)``, detached, means
    over ranks.

    Sums and not means, so that their quotient is the mean over all samples whatever number each rank or batch has.
    """
    losses = torch.where(step.valid, step.losses.detach(), 0.0)
    total, count = all_reduce_mean(torch.stack([losses.sum(0), step.valid.to(losses.dtype).sum(0)]))
    return total, count


def quotient(total: Tensor, count: Tensor) -> Tensor:
    """total / count, 0 where there is nothing to count."""
    return torch.where(count > 0, total / count.clamp_min(torch.finfo(count.dtype).tiny), 0.0)
