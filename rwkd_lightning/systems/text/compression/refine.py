"""Words move to the block that fits them better: GroupReduce's refinement, in the rounds of Lee et al.'s code."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rwkd_lightning.systems.text.compression.grouping import numbers
from rwkd_lightning.systems.text.compression.low_rank import Array, axes

ROUNDS, FEWEST, SHARE = 1000, 5, 0.1


def moved(
    table: Array, weights: Array, words: Sequence[NDArray[np.int64]], ranks: Sequence[int], budget: int
) -> list[NDArray[np.int64]]:
    """The words of each block after all moves; the weighted error never rises, and the budget holds.

    In a round the words that another block would approximate better are candidates; the tenth of them that it
    approximates best moves, and all blocks are decomposed anew. No word moves to a block that is kept whole, which
    would fit all. It ends with fewer than five candidates, or with a round that the budget or the error refuses.
    """
    width = table.shape[1]
    current = [np.asarray(some) for some in words]
    error, maps = decomposed(table, weights, current, ranks)
    norms = (table**2).sum(1)
    for _ in range(ROUNDS):
        everyone = np.concatenate(current)
        own = np.repeat(np.arange(len(current)), [len(some) for some in current])
        left = np.stack([norms[everyone] - ((table[everyone] @ b) ** 2).sum(1) for b in maps])  # (c, V)
        whole = [
            numbers(len(some), width, rank) == len(some) * width for some, rank in zip(current, ranks, strict=True)
        ]
        left[np.array(whole)] = np.inf
        left[:, np.array(whole)[own]] = np.inf  # and none leaves one
        best = left.argmin(0)
        chosen = np.flatnonzero((best != own) & (left.min(0) < left[own, np.arange(len(own))]))
        if len(chosen) < FEWEST:
            break
        order = chosen[np.argsort(left.min(0)[chosen], kind="stable")][: max(FEWEST, int(SHARE * len(chosen)))]
        target = own.copy()
        target[order] = best[order]
        proposed = [np.sort(everyone[target == block]) for block in range(len(current))]
        if any(not len(some) for some in proposed):
            break
        if sum(numbers(len(some), width, rank) for some, rank in zip(proposed, ranks, strict=True)) > budget:
            break
        now, fitted = decomposed(table, weights, proposed, ranks)
        if now >= error:
            break
        error, maps, current = now, fitted, proposed
    return current


def decomposed(
    table: Array, weights: Array, words: Sequence[NDArray[np.int64]], ranks: Sequence[int]
) -> tuple[float, list[Array]]:
    """The weighted error, and each block's B."""
    total, maps = 0.0, []
    for some, rank in zip(words, ranks, strict=True):
        directions, explained = axes(table[some], weights[some])
        if numbers(len(some), table.shape[1], rank) < table[some].size:
            total += float(explained[rank:].sum())
        maps.append(directions[:, :rank])
    return total, maps
