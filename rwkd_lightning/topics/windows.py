"""In how many sliding windows over documents words occur, alone and in pairs, as gensim counts them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rwkd_lightning.topics.needs import needed

BLOCK = 20_000
"""Windows that are held in memory at a time."""


def window_counts(words: Sequence[str], documents: Sequence[Sequence[str]], length: int) -> tuple[NDArray[np.int64], int]:
    """``(W, W)`` windows that hold word i and word j (on the diagonal: word i), and the number of all windows.

    A document of ``n`` words has ``n - length + 1`` windows of ``length`` neighbouring words; a shorter one is one window, and
    one without words none. Counted as gensim does, and with it what is published: a window that has just lost a word on its
    left counts as without that word until it comes in again on the right, even where the window still holds it. This matters
    only for words that repeat within ``length`` words of a document longer than that.
    """
    sparse = needed("scipy.sparse")
    word, first, last, total = spells(words, documents, length)
    counts = np.zeros((len(words), len(words)), np.int64)
    for start in range(0, total, BLOCK):
        stop = min(start + BLOCK, total)
        spell = slice(np.searchsorted(first, start - length, "right"), np.searchsorted(first, stop))
        low, high = np.maximum(first[spell], start), np.minimum(last[spell], stop - 1)
        lengths = np.maximum(high - low + 1, 0)
        columns = np.repeat(word[spell], lengths)
        rows = np.arange(lengths.sum()) + np.repeat(low - start - (lengths.cumsum() - lengths), lengths)
        held = sparse.csr_matrix((np.ones(len(rows), np.int64), (rows, columns)), shape=(stop - start, len(words)))
        together = (held.T @ held).tocoo()
        counts[together.row, together.col] += together.data
    return counts, total


def spells(words: Sequence[str], documents: Sequence[Sequence[str]], length: int
           ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], int]:
    """Runs of windows, numbered over all documents, that hold a word: its number, the first window, the last; number of windows.

    Runs of one word do not overlap, none is longer than ``length``, and they are sorted by the first window.
    """
    number = {word: i for i, word in enumerate(words)}
    sizes = np.array([len(document) for document in documents], np.int64)
    windows = np.where(sizes > 0, np.maximum(sizes - length + 1, 1), 0)
    offset = windows.cumsum() - windows
    found = np.array([(number[w], d, p) for d, document in enumerate(documents) for p, w in enumerate(document) if w in number],
                     np.int64).reshape(-1, 3)
    word, document, position = found[np.lexsort((found[:, 2], found[:, 0], found[:, 1]))].T
    group = document * len(words) + word
    places = int(sizes.max(initial=0)) + 1
    first = np.maximum(position - length + 1, 0)
    leaves = position[np.searchsorted(group * places + position, group * places + first)]  # the word's first place in the window
    last = np.minimum(leaves, windows[document] - 1)
    same = group[1:] == group[:-1]
    first[1:][same] = np.maximum(first[1:], last[:-1] + 1)[same]
    kept = first <= last
    word, first, last = word[kept], (offset[document] + first)[kept], (offset[document] + last)[kept]
    order = np.argsort(first, kind="stable")
    return word[order], first[order], last[order], int(windows.sum())
