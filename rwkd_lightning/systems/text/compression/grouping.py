"""Words of similar scores in blocks, and how many dimensions each block gets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rwkd_lightning.systems.text.compression.low_rank import Array

BINS = 1500
"""Distinct scores beyond so many are taken together, by equal counts, before they are cut into blocks."""


def clusters(scores: Array, count: int) -> NDArray[np.int64]:
    """The block of each word, 0 the lowest scores: the exact optimum of k-means in one dimension.

    Lee et al. 2021 cut the scores by k-means; in one dimension the optimum is found by dynamic programming (Wang, Song,
    Ckmeans.1d.dp, R Journal 2011), without a seed or an empty cluster.

    Args:
        scores: ``(V,)``.
        count: of blocks; fewer where there are fewer distinct scores.
    """
    values, place, often = np.unique(scores, return_inverse=True, return_counts=True)
    if len(values) > BINS:
        edges = np.unique(np.searchsorted(np.cumsum(often), np.linspace(0, len(scores), BINS + 1)[1:-1]))
        coarse = np.searchsorted(edges, np.arange(len(values)), side="left")
        sums = np.bincount(coarse, values * often)
        often = np.bincount(coarse, often).astype(np.int64)
        values, place = sums / often, coarse[place]
    ends = cuts(values, often.astype(float), min(count, len(values)))
    found: NDArray[np.int64] = np.searchsorted(ends, np.arange(len(values)), side="right")[place]
    return found


def cuts(values: Array, often: Array, count: int) -> list[int]:
    """Where each cluster but the last ends, of sorted values with their multiplicities."""
    n = len(values)
    mass, first, second = (np.concatenate([[0.0], np.cumsum(often * values**k)]) for k in range(3))
    cost = np.full(n + 1, np.inf)  # of the first i values in the clusters so far
    cost[0] = 0.0
    back = np.zeros((count, n + 1), dtype=np.int64)
    starts = np.arange(n + 1)
    for cluster in range(count):
        later = np.full(n + 1, np.inf)
        for end in range(1, n + 1):
            s = starts[:end]
            weight = mass[end] - mass[s]
            spread = second[end] - second[s] - (first[end] - first[s]) ** 2 / weight
            total = cost[s] + np.maximum(spread, 0.0)
            best = int(total.argmin())
            later[end], back[cluster, end] = total[best], best
        cost = later
    ends, end = [], n
    for cluster in range(count - 1, 0, -1):
        end = int(back[cluster, end])
        ends.append(end)
    return ends[::-1]


def numbers(rows: int, width: int, rank: int) -> int:
    """How many numbers a block of ``rows`` words is kept in; whole where two factors would be larger."""
    return min(rows * width, (rows + width) * rank)


def by_score(rows: Sequence[int], width: int, means: Sequence[float], budget: int) -> list[int]:
    """Ranks in proportion to the blocks' mean scores, r_b = t·mean_b, with the largest t that the budget allows; what
    is left goes to the blocks of the highest scores (``expand`` of Lee et al.'s code).
    """
    most = [min(n, width) for n in rows]

    def ranks(t: float) -> list[int]:
        return [min(cap, int(t * mean)) for cap, mean in zip(most, means, strict=True)]

    def spent(found: Sequence[int]) -> int:
        return sum(numbers(n, width, r) for n, r in zip(rows, found, strict=True))

    low, high = 0.0, 2.0 * width / max(min(mean for mean in means if mean > 0), 1e-300)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if spent(ranks(middle)) <= budget else (low, middle)
    found = ranks(low)
    for block in sorted(range(len(rows)), key=lambda b: -means[b]):
        while found[block] < most[block]:
            found[block] += 1
            if spent(found) > budget:
                found[block] -= 1
                break
    return found


def by_error(rows: Sequence[int], width: int, explained: Sequence[Array], budget: int) -> list[int]:
    """Ranks that leave the least weighted error: step by step the block that explains most for each further number.

    A block's eigenvalues fall, and each of its dimensions costs the same, so this is the best choice for the numbers
    that it spends (a knapsack of concave gains) as long as no block is whole: one that is gets its last dimensions for
    nothing, which a step ahead does not see.

    Args:
        explained: of each block what each dimension explains, as `low_rank.axes` gives it.
    """
    found = [0] * len(rows)
    closed: set[int] = set()
    left = budget
    while len(closed) < len(rows):
        gains = {
            block: explained[block][found[block]] / (rows[block] + width)
            for block in range(len(rows))
            if block not in closed and found[block] < min(rows[block], width)
        }
        if not gains:
            break
        block = max(gains, key=lambda b: gains[b])
        price = numbers(rows[block], width, found[block] + 1) - numbers(rows[block], width, found[block])
        if price > left or gains[block] <= 0:
            closed.add(block)
            continue
        left -= price
        found[block] += 1
        if numbers(rows[block], width, found[block]) == rows[block] * width:
            found[block] = min(rows[block], width)  # whole costs no more
    return found
