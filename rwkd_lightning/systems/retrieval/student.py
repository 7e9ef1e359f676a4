"""The student: one vector for each text, queries and documents compared by their cosine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rwkd_lightning.systems.retrieval.encoder import Encoder, mean, unit


class BiEncoder(Encoder):
    """A text is the mean of its tokens' last states, mapped by W and brought to length 1.

    Args:
        network: as of `Encoder`.
        width: as of `Encoder`.
        temperature: τ_s, by which a cosine is divided: S_ij = ⟨z_i, z_j⟩/τ_s. all-MiniLM-L6-v2 was trained with 0.05.
    """

    def __init__(self, network: Any, width: int | None = None, temperature: float = 0.05) -> None:
        super().__init__(network, width)
        self.temperature = temperature

    def pooled(self, batch: Mapping[str, Tensor], what: str) -> Tensor:
        """h ``(N, H)`` of the queries or documents of a batch, before W."""
        return mean(*self.states(batch, what))

    def vectors(self, batch: Mapping[str, Tensor], what: str) -> Tensor:
        """z ``(N, d)`` of the queries or documents of a batch."""
        return unit(self.projection(self.pooled(batch, what)))

    @property
    def head(self) -> nn.Module:
        """W, for methods that read each term's gradient on it; no linear layer from ``features`` to ``logits``."""
        return nn.ModuleList([self.projection])

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``logits`` S ``(B, U)`` of the batch's B queries and U documents; as ``features`` h ``(B + U, H)`` of the
        queries, then of the documents; and ``query_vectors`` and ``document_vectors`` ``(B, d)`` of each row's own.
        """
        queries, documents = self.pooled(batch, "query"), self.pooled(batch, "document")
        z, y = unit(self.projection(queries)), unit(self.projection(documents))
        return {
            "logits": z @ y.T / self.temperature,
            "features": torch.cat([queries, documents]),
            "query_vectors": z,
            "document_vectors": y[batch["labels"]],
        }
