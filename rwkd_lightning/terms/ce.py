"""Cross-entropy with the label."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from rwkd_lightning.terms.base import Term


class CrossEntropy(Term):
    """CE_i = −log p_i[y_i] from ``logits`` ``(B, C)`` and ``labels`` ``(B,)``; rows with label −1 are masked.

    From ``(B, T, V)`` and ``(B, T)`` the mean over the positions whose label is not −1. Arguments as of ``Term``.
    """

    name = "ce"
    role = "label"
    needs = frozenset({"classes"})

    def __init__(self, name: str | None = None, output: str | None = None) -> None:
        super().__init__(name, output)

    def forward(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        labels = batch["labels"]
        logits = self.prediction(outputs, batch)
        logits = logits.movedim(-1, 1) if labels.ndim > 1 else logits
        losses = F.cross_entropy(logits, labels, ignore_index=-1, reduction="none")
        return self.per_sample(losses, labels >= 0) if labels.ndim > 1 else losses

    def valid(self, batch: Mapping[str, Tensor]) -> Tensor:
        known = torch.ge(batch["labels"], 0)
        return known.flatten(1).any(1) if known.ndim > 1 else known
