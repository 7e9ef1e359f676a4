"""Binary cross-entropy with several labels."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from rwkd_lightning.terms.base import Term


class BinaryCrossEntropy(Term):
    """BCE_i = −(1/C)·Σ_c [y_ic·log σ(s_ic) + (1 − y_ic)·log σ(−s_ic)] from ``logits`` and ``labels``, both ``(B, C)``.

    Labels are 0 or 1; rows whose labels are −1 are masked. The mean over the labels is that of
    ``torch.nn.BCEWithLogitsLoss``, with which transformers trains such heads. Arguments as of ``Term``.
    """

    name = "bce"
    role = "label"
    needs = frozenset({"labels"})

    def __init__(self, name: str | None = None, output: str | None = None) -> None:
        super().__init__(name, output)

    def forward(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        logits = self.prediction(outputs, batch)
        labels = batch["labels"].to(logits.dtype)
        losses = F.binary_cross_entropy_with_logits(logits, labels.clamp_min(0), reduction="none")
        return self.per_sample(losses, (labels >= 0).expand(losses.shape))

    def valid(self, batch: Mapping[str, Tensor]) -> Tensor:
        return (batch["labels"] >= 0).all(1)
