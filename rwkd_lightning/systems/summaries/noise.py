"""Noise on a document's tokens, drawn by (seed, epoch, row) alone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

STREAM = 63  # of the seeds' streams


@dataclass(frozen=True)
class SourceNoise:
    """Tokens dropped, and sentences out of order (Liu et al. 2021; after their released code).

    Args:
        drop: the chance of each token to be left out; one at least stays.
        shuffle: k; a sentence moves by at most k places, by the keys i + (k + 1)·U(0, 1). The released code leaves
            documents of fewer than six sentences in order, this does not.
        ends: tokens that end a sentence.
        special: tokens that stay where they are.
        seed: of the draws.
    """

    drop: float = 0.0
    shuffle: int = 0
    ends: frozenset[int] = frozenset()
    special: frozenset[int] = frozenset()
    seed: int = 0

    def __call__(self, ids: np.ndarray, epoch: int, row: int) -> np.ndarray:
        """The tokens ``(S,)`` of a document at one visit."""
        if not self.drop and not self.shuffle:
            return ids
        draw = np.random.default_rng([self.seed, epoch, row, STREAM])
        fixed = np.isin(ids, list(self.special))
        inside = np.flatnonzero(~fixed)
        if not len(inside):
            return ids
        first, last = inside[0], inside[-1] + 1
        words = ids[first:last]
        if self.shuffle:
            words = shuffled(words, self.ends, self.shuffle, draw)
        if self.drop:
            kept = (draw.random(len(words)) >= self.drop) | np.isin(words, list(self.special))
            kept[draw.integers(len(words))] |= not kept.any()
            words = words[kept]
        return np.concatenate([ids[:first], words, ids[last:]])


def shuffled(words: np.ndarray, ends: Collection[int], k: int, draw: np.random.Generator) -> np.ndarray:
    """The tokens with their sentences in another order; what follows the last end is a sentence, too."""
    places = np.flatnonzero(np.isin(words, list(ends))) + 1
    sentences = [part for part in np.split(words, places) if len(part)]
    order = np.argsort(np.arange(len(sentences)) + (k + 1) * draw.random(len(sentences)), kind="stable")
    return np.concatenate([sentences[i] for i in order])


def sentence_ends(vocabulary: dict[str, int]) -> frozenset[int]:
    """Tokens that are a full stop, an exclamation or a question mark, whatever mark of a space stands before them."""
    return frozenset(number for token, number in vocabulary.items() if token.strip("Ġ▁# ") in (".", "!", "?"))
