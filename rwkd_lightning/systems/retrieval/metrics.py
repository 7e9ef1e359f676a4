"""Scores of a ranking, as trec_eval takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

DEPTH = 100
"""Documents of a ranking that are kept."""
NAMES = ("ndcg@10", "mrr@10", "recall@10", "recall@100")
CHUNK = 256


def rankings(scores: np.ndarray, ids: Sequence[str], depth: int = DEPTH) -> np.ndarray:
    """The places ``(Q, depth)`` of the documents with the highest scores ``(Q, D)``, best first.

    Of documents with the same score the one with the larger identifier comes first, as in trec_eval.
    """
    order = np.array(sorted(range(len(ids)), key=lambda i: ids[i], reverse=True))
    found = [
        order[np.argsort(-scores[start : start + CHUNK][:, order], axis=1, kind="stable")[:, :depth]]
        for start in range(0, len(scores), CHUNK)
    ]
    return np.concatenate(found) if found else np.empty((0, depth), dtype=np.int64)


def per_query(ranked: np.ndarray, relevant: Sequence[Mapping[int, float]]) -> dict[str, np.ndarray]:
    """Each score of each query, ``(Q,)``.

    nDCG@10 with the grades themselves as gains (Järvelin and Kekäläinen 2002), the reciprocal rank of the first
    relevant document among the best ten, and the share of the relevant documents among the best 10 and 100.
    """
    gains = np.array([[grades.get(int(d), 0.0) for d in row] for row, grades in zip(ranked, relevant, strict=True)])
    gains = gains.reshape(len(relevant), -1)
    hits = gains > 0
    counts = np.array([len(grades) for grades in relevant])
    ideal = np.array([dcg(np.array(sorted(grades.values(), reverse=True)[:10])) for grades in relevant])
    first = np.where(hits[:, :10].any(1), 1 / (1 + hits[:, :10].argmax(1)), 0.0)
    return {
        "ndcg@10": dcg(gains[:, :10]) / ideal,
        "mrr@10": first,
        "recall@10": hits[:, :10].sum(1) / counts,
        "recall@100": hits[:, :100].sum(1) / counts,
    }


def dcg(gains: np.ndarray) -> np.ndarray:
    """Discounted cumulative gain of the gains ``(..., n)`` of a ranking's first n."""
    discounted: np.ndarray = (gains / np.log2(np.arange(2, gains.shape[-1] + 2))).sum(-1)
    return discounted
