"""BM25, the baseline and the source of mined negatives (Robertson and Zaragoza 2009), by the library ``bm25s``."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
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
