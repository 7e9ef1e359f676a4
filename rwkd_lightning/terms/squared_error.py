"""Squared error to the label, for regression."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rwkd_lightning.terms.base import Term


class SquaredError(Term):
    """(s_i − y_i)² from ``logits`` ``(B, 1)`` and ``labels`` ``(B,)``; rows whose label is NaN are masked."""

    name = "squared_error"
    role = "label"
    needs = frozenset({"numbers"})

    def __init__(self, name: str | None = None, output: str | None = None) -> None:
        super().__init__(name, output)

    def forward(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        difference = self.prediction(outputs, batch)[:, 0] - batch["labels"]
        return torch.where(self.valid(batch), difference, 0) ** 2  # before the square, whose gradient would be NaN

    def valid(self, batch: Mapping[str, Tensor]) -> Tensor:
        return torch.logical_not(batch["labels"].isnan())
