"""Cross-entropy of a query's own document among the documents of the batch (InfoNCE; Karpukhin et al., DPR, 2020)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from rwkd_lightning.terms import Term


class Contrastive(Term):
    """l_i = −log softmax(S_i)[label_i] over the columns that are not ``known`` to be relevant, too.

    Reads ``logits`` S ``(B, U)``, ``labels`` ``(B,)``, the column of each row's own document, and ``known``
    ``(B, U)``, true where another document is relevant to the query: it must not count as a wrong one.
    """

    name = "contrastive"
    role = "label"
    needs = frozenset({"candidates"})

    def forward(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        scores = self.prediction(outputs, batch).masked_fill(batch["known"], -torch.inf)
        return F.cross_entropy(scores, batch["labels"], reduction="none")
