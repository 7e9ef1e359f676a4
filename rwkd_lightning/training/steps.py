"""How many steps a run has, and the gradient for a step of the weighting method's own parameters."""

from __future__ import annotations

from collections.abc import Sequence

import lightning
import torch
from torch import Tensor, nn

from rwkd_lightning.utils.constants import constant
from rwkd_lightning.utils.distributed import all_reduce_mean
from rwkd_lightning.utils.errors import UserError


def total_steps(trainer: lightning.Trainer) -> int:
    """Student steps of the whole run; UserError for one without an end."""
    epochs, steps = trainer.max_epochs, trainer.max_steps
    by_epochs = int(trainer.num_training_batches) * epochs if epochs is not None and epochs >= 0 else None
    bounds = [b for b in (by_epochs, steps if steps >= 0 else None) if b is not None]
    if not bounds:
        raise UserError("`max_epochs=-1` with `max_steps=-1`: the schedule needs an end; set one of them")
    return min(bounds)


def gradient_of_all_ranks(loss: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Set the parameters' gradient, the mean over all ranks (``autograd.grad`` runs no DDP hook); returns its parts."""
    with torch.autocast(loss.device.type, enabled=False):  # a backward inside it is rounded, whatever the forward was
        gradients = torch.autograd.grad(loss, parameters, constant(1.0, loss.dtype, loss.device), allow_unused=True)
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = None if g is None else all_reduce_mean(g)
    return [p.grad for p in parameters if p.grad is not None]
