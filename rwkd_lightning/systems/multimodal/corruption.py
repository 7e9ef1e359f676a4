"""Swapped texts and pictures with a known truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rwkd_lightning.cache.store import digest
from rwkd_lightning.systems.multimodal.collection import NONE, Examples

TEXTS, PICTURES = 51, 52
"""Streams of a seed."""


@dataclass(frozen=True)
class Swaps:
    """For each row the number of the row whose text, and of that whose picture it gets, ``(N,)`` each."""

    texts: np.ndarray
    pictures: np.ndarray

    def seen(self, rows: Examples) -> Examples:
        """The rows with what they get; labels stay."""
        texts, pictures = [rows.texts[i] for i in self.texts], [rows.pictures[i] for i in self.pictures]
        return Examples(texts, pictures, rows.labels, rows.idx)

    def fingerprint(self) -> str:
        """SHA-256."""
        return digest([self.texts.tolist(), self.pictures.tolist()])


def swaps_of(rows: Examples, text_noise: float = 0.0, image_noise: float = 0.0, seed: int = 0) -> Swaps:
    """A share of the rows that have a text deal theirs round, and a share of those that have a picture."""
    has_image = [place != NONE for place in rows.pictures]
    return Swaps(
        dealt([bool(text) for text in rows.texts], text_noise, seed, TEXTS),
        dealt(has_image, image_noise, seed, PICTURES),
    )


def dealt(there: Sequence[bool], share: float, seed: int, stream: int) -> np.ndarray:
    """For each row ``(N,)`` itself, or of a share of the rows that are there another one of them."""
    rows = np.flatnonzero(np.asarray(there))
    chosen = np.random.default_rng([seed, stream]).permutation(rows)[: round(share * len(rows))]
    found = np.arange(len(there))
    found[chosen] = np.roll(chosen, 1)
    return found
