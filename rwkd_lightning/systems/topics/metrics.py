"""Scores of a topic model: of its topics (coherence, diversity) and of its documents' shares (clusters, perplexity)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rwkd_lightning.systems.topics.needs import needed
from rwkd_lightning.utils.errors import UserError

TOP_WORDS = 10
"""Words of a topic that are shown and scored."""


def top_words(beta: Tensor, vocabulary: Sequence[str], count: int = TOP_WORDS) -> list[list[str]]:
    """The words of largest weight of each topic of ``beta`` ``(K, V)``, the largest first, ties as in the vocabulary.

    Raises:
        UserError: if a weight is not finite, the vocabulary is not of V words, or has fewer than ``count``.
    """
    if beta.shape[1] != len(vocabulary) or not 1 <= count <= len(vocabulary):
        raise UserError(
            f"{count} top words of topics over {beta.shape[1]} words with a vocabulary of {len(vocabulary)}; "
            "beta must have a column for each word of the vocabulary, and count lie between 1 and their number"
        )
    if not bool(beta.isfinite().all()):
        broken = int((~beta.isfinite()).any(1).nonzero()[0])
        raise UserError(
            f"topic {broken} has a weight that is NaN or infinite, so it has no top words; did its training diverge? "
            "try a lower learning rate"
        )
    order = beta.sort(dim=1, descending=True, stable=True).indices[:, :count]
    return [[vocabulary[word] for word in topic] for topic in order.tolist()]


def coherence(topics: Sequence[Sequence[str]], documents: Sequence[Sequence[str]]) -> dict[str, Any]:
    """NPMI and C_V of top words, from how often they meet in windows over documents (Röder et al. 2015), by gensim as
    in OCTIS.

    Windows of 10 words (``c_npmi``) and 110 (``c_v``), gensim's defaults; documents must keep the order of their words.
    Words that occur in no document are left out of their topic; topics with fewer than two words left are undefined,
    NaN in the list. gensim forgets a word that leaves a window although the window holds it again, so where words
    repeat the figures are those that are published, and not quite those of the definition.

    Returns:
        ``npmi`` and ``c_v``, means over the topics that are defined; ``npmi_per_topic`` and ``c_v_per_topic``, lists of
        K; ``undefined``, number of topics; ``words_missing``, number of top words in no document.

    Raises:
        UserError: if no topic is defined, or there are fewer than two documents.
    """
    logging.getLogger("gensim").setLevel(logging.WARNING)  # it tells of every document that it counts
    reference = [list(document) for document in documents if document]
    dictionary = needed("gensim.corpora").Dictionary(reference)
    known = [[word for word in topic if word in dictionary.token2id] for topic in topics]
    defined = [k for k, topic in enumerate(known) if len(topic) > 1]
    if not defined or len(reference) < 2:
        raise UserError(
            f"coherence is not defined for any of {len(topics)} topics in {len(reference)} documents: each topic has "
            "fewer than two words that occur there, or there are no two documents; give more documents"
        )
    model = needed("gensim.models.coherencemodel").CoherenceModel
    wanted = {word for topic in topics for word in topic}
    result: dict[str, Any] = {"undefined": len(topics) - len(defined), "words_missing": len(wanted.difference(*known))}
    for name, measure in (("npmi", "c_npmi"), ("c_v", "c_v")):
        # one process: those of gensim's own pool outlive a run that is stopped
        scores = model(
            topics=[known[k] for k in defined],
            texts=reference,
            dictionary=dictionary,
            coherence=measure,
            processes=1,
            topn=max(map(len, known)),
        ).get_coherence_per_topic()
        by_topic = dict(zip(defined, map(float, scores), strict=True))
        result |= {
            name: sum(by_topic.values()) / len(by_topic),
            f"{name}_per_topic": [by_topic.get(k, float("nan")) for k in range(len(topics))],
        }
    return result


def diversity(topics: Sequence[Sequence[str]]) -> float:
    """Share of distinct words among all top words: 1 where no word is in two topics; Dieng et al. (2020) take 25 a
    topic.
    """
    words = [word for topic in topics for word in topic]
    if not words:
        raise UserError(f"diversity of {len(topics)} topics without words; give top_words(beta, vocabulary)")
    return len(set(words)) / len(words)


def clustering(labels: Sequence[Any], theta: Tensor) -> dict[str, float]:
    """``purity`` and ``nmi`` of documents with labels ``(N,)``, put together by their largest share of ``theta`` ``(N,
    K)``.

    Purity: the share of documents whose label is the commonest one of their cluster; it grows with K. NMI: mutual
    information over the mean of the two entropies, scikit-learn's.

    Raises:
        UserError: if the numbers of labels and documents differ, there is none, or a share is NaN.
    """
    if len(labels) != len(theta) or len(labels) == 0 or bool(theta.isnan().any()):
        raise UserError(
            f"clustering {len(theta)} documents with {len(labels)} labels, {int(theta.isnan().any(1).sum())} of them "
            "with NaN as shares; give a label and finite shares for each document"
        )
    codes = torch.as_tensor(np.unique(np.asarray(labels), return_inverse=True)[1])
    clusters = theta.detach().cpu().argmax(1)
    table = torch.zeros(theta.shape[1], int(codes.max()) + 1, dtype=torch.long)
    table.index_put_((clusters, codes), torch.ones_like(codes), accumulate=True)
    score = needed("sklearn.metrics").normalized_mutual_info_score(codes.numpy(), clusters.numpy())
    return {"purity": float(table.max(1).values.sum()) / len(labels), "nmi": float(score)}


def perplexity(log_likelihoods: Tensor, words: Tensor) -> float:
    """exp(-Σ log-likelihood / Σ words) over documents, both ``(N,)``; an upper bound from ELBOs."""
    total = float(words.double().sum())
    if log_likelihoods.shape != words.shape or total <= 0:
        raise UserError(
            f"perplexity of {tuple(log_likelihoods.shape)} log-likelihoods over {total:.0f} words of "
            f"{tuple(words.shape)} documents; give one log-likelihood for each document, and documents with words"
        )
    return float((-log_likelihoods.double().sum() / total).exp())


def sizes(theta: Tensor) -> Tensor:
    """Share of each topic in the corpus ``(K,)``: the mean of the documents' shares ``theta`` ``(N, K)``."""
    return theta.double().mean(0)
