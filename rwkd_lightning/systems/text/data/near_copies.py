"""Texts that are nearly copies of each other, among a million of them, by MinHash and locality-sensitive hashing.

Two texts are near-copies where the Jaccard similarity of their shingles is at least a threshold. MinHash (Broder, On
the resemblance and containment of documents, 1997) finds the candidates, in bands of hashes (Leskovec, Rajaraman and
Ullman, Mining of Massive Datasets, section 3.4), and the exact similarity decides. No library: datasketch took 20 times
as long, and rensa wants each text as a list of strings, which alone takes longer than all of this.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

WIDTH = 4
"""Characters of a shingle."""
HASHES = 128
RECALL = 0.999
"""Of pairs right at the threshold, in expectation; of more similar ones it is higher."""
FLAT = 2**16
"""Characters hashed, and pairs compared, at a time: their arrays fit into a processor's cache."""
COMPARED = 4096
"""Pairs of a bucket, about: of more than 64 texts, only a part of the pairs is compared in it."""
_PAD = "\0" * (WIDTH - 1)
_EAST_ASIAN = re.compile("([\u2e80-\U0010ffff])")
_MIX = np.uint64(0x9E3779B97F4A7C15)  # of splitmix64: odd, with its bits spread


def spread(text: str) -> str:
    """The text as it is cut into shingles: each character that says as much as two letters takes two places.

    So a shingle holds four letters or two Chinese, Japanese or Korean characters, and no script needs blanks.
    """
    return text if text.isascii() else _EAST_ASIAN.sub("\\1\0", text)


def shingles(text: str) -> set[str]:
    """All runs of `WIDTH` characters, with padding at both ends, so that each character is in as many as any other."""
    padded = f"{_PAD}{spread(text)}{_PAD}"
    return {padded[start : start + WIDTH] for start in range(len(padded) - WIDTH + 1)}


def jaccard(one: set[str], other: set[str]) -> float:
    """Shared elements by all elements."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


class NearCopies:
    """Finds near-copies among N distinct texts, and of other texts among them; the same ones each time.

    Each pair that is found is a pair of near-copies. Of the pairs right at the threshold, all but one in a thousand are
    compared, and of more similar ones nearly all.
    """

    def __init__(self, texts: Sequence[str], threshold: float) -> None:
        """ValueError for a threshold outside [0.5, 1]: below, most pairs of a language would be candidates."""
        if not 0.5 <= threshold <= 1:
            raise ValueError(f"`threshold` is {threshold}; give a number from 0.5 to 1")
        self.texts, self.threshold = texts, threshold
        self.rows = rows_per_band(threshold)
        self.buckets, self.minima = signatures(texts, self.rows)
        # 3.5 standard deviations below what a pair at the threshold has in the mean
        self.least_shared = HASHES * threshold - 3.5 * (HASHES * threshold * (1 - threshold)) ** 0.5

    def groups(self) -> np.ndarray:
        """The first text of each text's group, `(N,)`: near-copies are in one group, and so are their near-copies."""
        parent = list(range(len(self.texts)))

        def root(row: int) -> int:
            while (above := parent[row]) != row:
                parent[row] = row = parent[above]
            return row

        first = np.arange(len(parent))
        for band in range(self.buckets.shape[1]):
            for one, other in self._candidates(self.buckets[:, band], first):
                low, high = sorted((root(one), root(other)))
                if low != high and self.near(self.texts[one], self.texts[other]):
                    parent[high] = low
            first = np.array([root(row) for row in range(len(parent))], np.int64)
        return first

    def of(self, others: Sequence[str]) -> np.ndarray:
        """A near-copy of each of M other texts among the N, `(M,)`; −1 where there is none. An equal text is one."""
        found = np.full(len(others), -1)
        buckets, minima = signatures(others, self.rows)
        for mine, theirs in zip(self.buckets.T, buckets.T, strict=True):
            order = np.argsort(mine, kind="stable")
            starts = np.searchsorted(mine, theirs, "left", sorter=order)
            stops = np.searchsorted(mine, theirs, "right", sorter=order)
            for other in np.flatnonzero((stops > starts) & (found < 0)).tolist():
                rows = order[starts[other] : stops[other]][:COMPARED]
                likely = rows[(self.minima[rows] == minima[other]).sum(1) >= self.least_shared]
                found[other] = next((row for row in likely.tolist() if self.near(others[other], self.texts[row])), -1)
        return found

    def near(self, one: str, other: str) -> bool:
        """Whether two texts are near-copies, exactly."""
        return jaccard(shingles(one), shingles(other)) >= self.threshold

    def _candidates(self, bucket: np.ndarray, groups: np.ndarray) -> Iterator[tuple[int, int]]:
        """Pairs in one bucket, not yet in one group, whose minima say that they may be near-copies.

        A text is compared with as many of those that follow it in its bucket as `COMPARED` allows, and with the first.
        """
        order = np.argsort(bucket, kind="stable")
        starts = np.flatnonzero(np.diff(bucket[order], prepend=~bucket[order[:1]]))
        sizes = np.diff(starts, append=len(order))
        if len(starts) == len(order):
            return
        tops = groups[order]
        open_ = np.minimum.reduceat(tops, starts) != np.maximum.reduceat(tops, starts)
        starts, sizes = starts[open_], sizes[open_]
        if not len(starts):
            return
        start, size = np.repeat(starts, sizes), np.repeat(sizes, sizes)
        place = start + np.arange(len(start)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        reach = np.minimum(size - 1, np.maximum(4, COMPARED // size))
        for step in range(1, int(reach.max()) + 1):
            fits = (reach >= step) & (place + step < start + size)
            yield from self._likely(order[place[fits]], order[place[fits] + step], groups)
        far = place - start > reach
        yield from self._likely(order[start[far]], order[place[far]], groups)

    def _likely(self, ones: np.ndarray, others: np.ndarray, groups: np.ndarray) -> Iterator[tuple[int, int]]:
        apart = groups[ones] != groups[others]
        ones, others = ones[apart], others[apart]
        for first in range(0, len(ones), FLAT):
            one, other = ones[first : first + FLAT], others[first : first + FLAT]
            likely = (self.minima[one] == self.minima[other]).sum(1) >= self.least_shared
            yield from zip(one[likely].tolist(), other[likely].tolist(), strict=True)


def rows_per_band(threshold: float) -> int:
    """The most hashes a bucket can ask for at once while a pair at the threshold shares one with `RECALL`."""
    fit = [rows for rows in range(1, HASHES + 1) if 1 - (1 - threshold**rows) ** (HASHES // rows) >= RECALL]
    return max(fit)


def signatures(texts: Sequence[str], rows: int) -> tuple[np.ndarray, np.ndarray]:
    """The buckets of N texts, `(N, HASHES // rows)`, and the last bits of their minima, `(N, HASHES)`.

    Two texts share a bucket where `rows` of their minima agree, and each minimum agrees with the probability of their
    Jaccard similarity.
    """
    factors = np.random.default_rng(0).integers(0, 2**31, HASHES, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    buckets = np.empty((len(texts), HASHES // rows), np.uint32, order="F")
    minima = np.empty((len(texts), HASHES), np.uint8)
    for first, hashes, starts in hashed(texts):
        part = slice(first, first + len(starts))
        least = np.stack([np.minimum.reduceat(hashes * factor, starts) for factor in factors], 1)
        minima[part] = least.astype(np.uint8)
        for band in range(buckets.shape[1]):
            key = np.zeros(len(starts), np.uint64)
            for column in least[:, band * rows : (band + 1) * rows].T:
                key = mixed(key + column)
            buckets[part, band] = key >> np.uint64(32)
    return buckets, minima


def hashed(texts: Sequence[str]) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """The texts in parts: number of the first, hashes of their shingles of 32 bits, and where each text's begin."""
    first = 0
    while first < len(texts):
        part: list[str] = []
        size = 0
        while first + len(part) < len(texts) and size < FLAT:
            part.append(spread(texts[first + len(part)]))
            size += len(part[-1])
        flat = _PAD + "".join(text + _PAD for text in part)
        codes = np.frombuffer(flat.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
        total = np.full(len(codes) - WIDTH + 1, _MIX)  # not 0, which padding alone would keep, the least of all hashes
        for place in range(WIDTH):
            total = mixed(total + codes[place : place + len(total)])
        lengths = np.array([len(text) + WIDTH - 1 for text in part])
        yield first, (total >> np.uint64(32)).astype(np.uint32), np.cumsum(lengths) - lengths
        first += len(part)


def mixed(values: np.ndarray) -> np.ndarray:
    """Numbers of 64 bits with each bit of the input spread over all: a round of splitmix64."""
    values = values * _MIX
    values = values ^ (values >> np.uint64(29))
    return values * np.uint64(0xBF58476D1CE4E5B9)
