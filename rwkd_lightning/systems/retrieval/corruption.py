"""Corruptions of training pairs with a known truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rwkd_lightning.systems.retrieval.collection import Queries

LABELS, TEACHER = 43, 44  # of the seeds' streams


def deal_documents(
    queries: Queries, pairs: Sequence[tuple[int, int]], share: float, seed: int
) -> tuple[list[tuple[int, int]], np.ndarray]:
    """The pairs with the documents of a share of them dealt round among these, and flags ``(N,)``.

    A row that would get a document relevant to its query keeps its own and has no flag.
    """
    rows = chosen(len(pairs), share, seed, LABELS)
    flags = np.zeros(len(pairs), dtype=bool)
    found = list(pairs)
    for row, other in zip(rows, np.roll(rows, 1), strict=True):
        query, document = pairs[row][0], pairs[other][1]
        if document not in queries.relevant[query]:
            found[row], flags[row] = (query, document), True
    return found, flags


def deal_queries(pairs: Sequence[tuple[int, int]], share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """For each row the place of the query whose teacher scores it gets, ``(N,)``: of a share of the rows another row's;
    and flags ``(N,)``.
    """
    rows = chosen(len(pairs), share, seed, TEACHER)
    taught = np.array([query for query, _ in pairs], dtype=np.int64)
    dealt = taught.copy()
    dealt[rows] = taught[np.roll(rows, 1)]
    return dealt, dealt != taught


def chosen(size: int, share: float, seed: int, stream: int) -> np.ndarray:
    """``round(share * size)`` of so many rows, in random order."""
    return np.random.default_rng([seed, stream]).permutation(size)[: round(share * size)]
