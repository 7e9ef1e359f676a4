"""LDA, the topic model that everything else should beat: scikit-learn's, which comes with the clustering score
anyway.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rwkd_lightning.systems.topics.needs import needed
from rwkd_lightning.utils.errors import UserError

ONLINE_FROM = 20_000
"""Documents from which on LDA sees them in parts: a pass over all of them for one update would be slow."""


def lda(counts: Any, topics: int, seed: int) -> Tensor:
    """Word probabilities ``(K, V)`` of latent Dirichlet allocation on a csr matrix of word counts ``(N, V)``."""
    return lda_and_shares(counts, topics, seed)[0]


def lda_and_shares(counts: Any, topics: int, seed: int) -> tuple[Tensor, Tensor]:
    """``(K, V)`` word probabilities of the topics and ``(N, K)`` shares of the topics in the documents; rows sum to 1.

    Raises:
        UserError: if topics is below 1 or there is no word to learn from.
    """
    if topics < 1 or counts.sum() == 0:
        raise UserError(
            f"LDA with {topics} topics on {counts.shape[0]} documents of {counts.sum():.0f} words; "
            "it needs a topic and a word at least"
        )
    model = needed("sklearn.decomposition").LatentDirichletAllocation(
        topics, learning_method="batch" if counts.shape[0] < ONLINE_FROM else "online", max_iter=20, random_state=seed
    )
    shares = model.fit_transform(counts)
    beta = torch.from_numpy(model.components_ / model.components_.sum(axis=1, keepdims=True))
    return beta, torch.from_numpy(shares)
