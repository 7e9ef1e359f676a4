"""A word table in blocks of low rank."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rwkd_lightning.systems.text.compression.low_rank import Array

NUMBER, INDEX = 4, 2
"""Bytes of a number, and of a word's place while there are at most 65,536 words (4 beyond)."""


@dataclass(frozen=True)
class Block:
    """Words that share a map; ``maps`` is None where they are kept whole."""

    words: NDArray[np.int64]
    """Their numbers ``(n,)``."""
    rows: Array
    """U ``(n, r)``, or A ``(n, d)``."""
    maps: Array | None
    """B ``(d, r)``."""

    def dense(self) -> Array:
        """``(n, d)``."""
        return self.rows if self.maps is None else self.rows @ self.maps.T


@dataclass(frozen=True)
class Factored:
    """A table ``(V, d)`` as blocks; each word is in one of them."""

    blocks: tuple[Block, ...]
    shape: tuple[int, int]

    def dense(self) -> Array:
        """The table that the blocks multiply out to."""
        table = np.zeros(self.shape)
        for block in self.blocks:
            table[block.words] = block.dense()
        return table

    @property
    def bytes(self) -> int:
        """Of all factors in float32 and the words' places."""
        held = sum(b.rows.size + (0 if b.maps is None else b.maps.size) for b in self.blocks)
        return NUMBER * held + index_bytes(self.shape[0])

    def error(self, table: Array, weights: Array) -> float:
        """Σ_w p_w·‖a_w − â_w‖² / Σ_w p_w·‖a_w‖²."""
        missed = ((table - self.dense()) ** 2).sum(1) @ weights
        return float(missed / ((table**2).sum(1) @ weights))


def index_bytes(words: int) -> int:
    """Of the words' places."""
    return words * (INDEX if words <= 2**16 else 2 * INDEX)
