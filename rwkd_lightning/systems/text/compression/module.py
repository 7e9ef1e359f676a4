"""A word table in blocks of low rank, in place of ``nn.Embedding``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rwkd_lightning.systems.text.compression.low_rank import balanced
from rwkd_lightning.systems.text.compression.table import Factored


class Shape(NamedTuple):
    """Of a block: words and rank; a rank of -1: its words are whole."""

    words: int
    rank: int


class FactoredEmbedding(nn.Module):
    """ids ``(...)`` to vectors ``(..., d)``: the word's row of its block, times the block's map.

    Args:
        shapes: of the blocks.
        num_embeddings: V.
        embedding_dim: d.
        padding_idx: kept for whoever asks; its row is trained as the others are, since it is masked everywhere.
    """

    places: Tensor

    def __init__(
        self, shapes: Sequence[Sequence[int]], num_embeddings: int, embedding_dim: int, padding_idx: int | None = None
    ) -> None:
        super().__init__()
        self.shapes = [Shape(*shape) for shape in shapes]
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx
        self.rows = nn.ParameterList(
            torch.zeros(words, embedding_dim if rank < 0 else rank) for words, rank in self.shapes
        )
        self.maps = nn.ParameterList(torch.zeros(embedding_dim, max(rank, 0)) for _, rank in self.shapes)
        for parameter in (*self.rows, *self.maps):
            parameter.requires_grad_(parameter.numel() > 0)
        self.register_buffer("places", torch.zeros(num_embeddings, dtype=torch.int32))
        """Of each word its place among all blocks' rows, block after block."""

    @classmethod
    def of(cls, made: Factored, padding_idx: int | None = None) -> FactoredEmbedding:
        """From factors; U and B with columns of equal length."""
        shapes = [Shape(len(b.words), -1 if b.maps is None else b.maps.shape[1]) for b in made.blocks]
        found = cls(shapes, *made.shape, padding_idx)
        start = 0
        with torch.no_grad():
            for number, block in enumerate(made.blocks):
                rows, maps = (block.rows, None) if block.maps is None else balanced(block.rows, block.maps)
                found.rows[number].copy_(torch.from_numpy(np.ascontiguousarray(rows)))
                if maps is not None:
                    found.maps[number].copy_(torch.from_numpy(np.ascontiguousarray(maps)))
                found.places[torch.from_numpy(block.words)] = torch.arange(
                    start, start + len(block.words), dtype=torch.int32
                )
                start += len(block.words)
        return found

    def forward(self, ids: Tensor) -> Tensor:
        """No loop over tokens: each block looks up all of them, and those of other blocks are left out."""
        places = self.places[ids]
        found: Tensor | None = None
        start = 0
        for (words, rank), rows, maps in zip(self.shapes, self.rows, self.maps, strict=True):
            local = places - start
            inside = (local >= 0) & (local < words)
            vectors = nn.functional.embedding(local.clamp(0, words - 1), rows)
            if rank >= 0:
                vectors = vectors @ maps.T
            found = vectors if found is None else torch.where(inside[..., None], vectors, found)
            start += words
        assert found is not None
        return found

    @torch.no_grad()
    def dense(self) -> Tensor:
        """The table that it multiplies out to, ``(V, d)``."""
        parts = [
            rows if rank < 0 else rows @ maps.T
            for (_, rank), rows, maps in zip(self.shapes, self.rows, self.maps, strict=True)
        ]
        return torch.cat(parts)[self.places.long()]

    def extra_repr(self) -> str:
        return ", ".join(f"{words} words {'whole' if rank < 0 else f'of rank {rank}'}" for words, rank in self.shapes)
