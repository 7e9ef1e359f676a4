"""Cross-entropy of a document's own query among the queries of the batch: the other direction of ``contrastive``."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rwkd_lightning.terms import Term


class Reverse(Term):
    """l_i = −log softmax over the queries j of S_j,label_i, at j = i; queries to which this document is relevant, too,
    do not count (Radford et al., CLIP, 2021, take the mean of both directions).

    Reads as ``Contrastive``. A query that stands in several rows counts once for each.
    """

    name = "reverse"
    role = "label"
    needs = frozenset({"candidates"})
    in_batch = True

    def forward(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        scores, own = self.prediction(outputs, batch), batch["labels"]
        columns = scores[:, own]  # (B, B): query j, document of row i
        same = own[:, None] == own[None]
        others = (batch["known"][:, own] | same) & ~torch.eye(len(own), dtype=torch.bool, device=own.device)
        return -columns.masked_fill(others, -torch.inf).log_softmax(0).diagonal()
