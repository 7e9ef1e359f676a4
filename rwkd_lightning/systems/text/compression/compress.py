"""From a word table and a score of each word to few bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rwkd_lightning.systems.text.compression.grouping import by_error, by_score, clusters, numbers
from rwkd_lightning.systems.text.compression.low_rank import Array, axes, factors
from rwkd_lightning.systems.text.compression.refine import moved
from rwkd_lightning.systems.text.compression.table import NUMBER, Block, Factored, index_bytes
from rwkd_lightning.utils.errors import UserError


def compress(
    table: Array,
    scores: Array,
    ratio: float,
    method: str = "blocks",
    blocks: int = 5,
    whole: Sequence[int] = (),
    refine: bool = False,
) -> Factored:
    """The table in at most ``1/ratio`` of its bytes, the words' places and the words that are kept whole counted.

    Args:
        table: A, ``(V, d)``.
        scores: of each word, ``(V,)``, 0 or above: how much its error counts.
        ratio: above 1.
        method: one of METHODS.
        blocks: c, how many, beside that of ``whole``.
        whole: words that keep their vectors, the special tokens.
        refine: move words between blocks (GroupReduce's refinement) while that lowers the error.

    Raises:
        UserError: if the places and the words kept whole alone are more than that.
    """
    rows, width = table.shape
    special = np.unique(np.asarray(whole, dtype=np.int64))
    budget = int(rows * width / ratio) - index_bytes(rows) // NUMBER - len(special) * width
    if budget < rows - len(special) + width:
        raise UserError(
            f"ratio={ratio:g}: a table of {rows} x {width} in {rows * width * NUMBER / ratio:,.0f} bytes leaves no "
            f"number for each word (their places take {index_bytes(rows):,} bytes); give a smaller ratio"
        )
    weights = np.ones(rows) if method == "svd" else scores
    common = np.setdiff1d(np.arange(rows), special)
    if method in ("svd", "one_block"):
        block = np.zeros(len(common), dtype=np.int64)
    else:
        seen = scores[common]
        block = clusters(seen if method == "released" else np.log(seen + seen[seen > 0].min(initial=1.0)), blocks)
    words = [common[block == number] for number in range(block.max() + 1)]
    ranks = ranks_of(table, weights, words, method, budget)
    if refine:
        words = moved(table, weights, words, ranks, budget)
    made = [cut(table, weights, some, rank) for some, rank in zip(words, ranks, strict=True)]
    if len(special):
        made.append(Block(special, table[special], None))
    return Factored(tuple(made), (rows, width))


def ranks_of(table: Array, weights: Array, words: Sequence[NDArray[np.int64]], method: str, budget: int) -> list[int]:
    """The rank of each block."""
    counts, width = [len(some) for some in words], table.shape[1]
    if method == "released":
        return by_score(counts, width, [float(weights[some].mean()) for some in words], budget)
    explained = [axes(table[some], weights[some])[1] for some in words]
    return by_error(counts, width, explained, budget)


def cut(table: Array, weights: Array, words: NDArray[np.int64], rank: int) -> Block:
    """A block of this rank; whole where two factors would be larger."""
    own = table[words]
    if numbers(len(words), table.shape[1], rank) == own.size:
        return Block(words, own, None)
    return Block(words, *factors(own, axes(own, weights[words])[0], rank))
