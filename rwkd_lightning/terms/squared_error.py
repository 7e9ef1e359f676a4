"""Squared error to the label, for regression."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from rwkd_lightning.terms.base import Term, at_least_float32


class SquaredError(Term):
    """(s_i − y_i)² from ``logits`` ``(B, 1)`` and ``labels`` ``(B,)``."""

    name = "squared_error"
    regression = True

    def forward(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        return (at_least_float32(outputs["logits"])[:, 0] - batch["labels"]) ** 2
