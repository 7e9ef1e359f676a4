"""BM25, the baseline and the source of mined negatives (Robertson and Zaragoza 2009), by the library ``bm25s``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rwkd_lightning.utils.errors import UserError

K1, B = 0.9, 0.4
"""As in Anserini's baselines of short passages."""


class BM25:
    """An index of documents.

    Args:
        texts: the documents'.

    Raises:
        UserError: if the library is not installed.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        try:
            self.library: Any = importlib.import_module("bm25s")
        except ModuleNotFoundError as error:
            raise UserError('task "retrieval" needs bm25s: pip install "rwkd_lightning[retrieval]"') from error
        self.index = self.library.BM25(k1=K1, b=B)
        self.size = len(texts)
        self.index.index(self.tokens(texts), show_progress=False)

    def tokens(self, texts: Sequence[str]) -> Any:
        """Words of each text, lower case and without English stop words."""
        return self.library.tokenize(list(texts), stopwords="en", return_ids=False, show_progress=False)

    def scores(self, queries: Sequence[str]) -> np.ndarray:
        """Of every document for every query, ``(Q, D)``."""
        found = np.zeros((len(queries), self.size), dtype=np.float32)
        for row, words in zip(found, self.tokens(queries), strict=True):
            if words:
                row[:] = self.index.get_scores(words)
        return found


def hardest(scores: np.ndarray, relevant: Sequence[Mapping[int, float]], depth: int) -> np.ndarray:
    """The places ``(Q, depth)`` of the best-scored documents ``(Q, D)`` that are not relevant, best first.

    Raises:
        UserError: where a query has fewer documents that are not relevant to it.
    """
    room = min((scores.shape[1] - len(grades) for grades in relevant), default=depth)
    if room < depth:
        raise UserError(
            f"a query has only {room} documents that are not relevant to it, and data.negative_depth={depth} asks for "
            f"more; give data.negative_depth={max(1, room)} or negatives of another kind: data.negatives=none"
        )
    found = np.empty((len(scores), depth), dtype=np.int64)
    for place, (row, grades) in enumerate(zip(scores, relevant, strict=True)):
        masked = row.copy()
        masked[list(grades)] = -np.inf
        found[place] = np.argsort(-masked, kind="stable")[:depth]
    return found
