"""Tensors of Python's numbers, made once: a device waits for what comes from the host."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


@functools.lru_cache(maxsize=256)
def constant(numbers: float | tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A scalar of this number, or a vector of these; not to be written to."""
    with torch.inference_mode(False):
        return torch.tensor(numbers, dtype=dtype, device=device)
