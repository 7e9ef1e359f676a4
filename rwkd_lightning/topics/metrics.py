"""Scores of a topic model: of its topics (coherence, diversity) and of its documents' shares (clusters, perplexity)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rwkd_lightning.errors import UserError
from rwkd_lightning.topics.needs import needed
from rwkd_lightning.topics.windows import window_counts

NPMI_WINDOW, C_V_WINDOW = 10, 110
"""Words of a window: gensim's defaults for ``c_npmi`` and ``c_v``, which OCTIS keeps."""

EPSILON = 1e-12
"""Added to the probability of a pair, as in gensim: a pair that never meets has an NPMI of almost -1."""


def top_words(beta: Tensor, vocabulary: Sequence[str], count: int = 10) -> list[list[str]]:
    """The words of largest weight of each topic of ``beta`` ``(K, V)``, the largest first, equal ones as in the vocabulary.

    Raises:
        UserError: if a weight is not finite, the vocabulary is not of V words, or has fewer than ``count``.
    """
    if beta.shape[1] != len(vocabulary) or not 1 <= count <= len(vocabulary):
        raise UserError(f"{count} top words of topics over {beta.shape[1]} words with a vocabulary of {len(vocabulary)}; "
                        "beta must have a column for each word of the vocabulary, and count lie between 1 and their number")
    if not bool(beta.isfinite().all()):
        broken = int((~beta.isfinite()).any(1).nonzero()[0])
        raise UserError(f"topic {broken} has a weight that is NaN or infinite, so it has no top words; did its training diverge? "
                        "try a lower learning rate")
    order = beta.sort(dim=1, descending=True, stable=True).indices[:, :count]
    return [[vocabulary[word] for word in topic] for topic in order.tolist()]


def coherence(topics: Sequence[Sequence[str]], documents: Sequence[Sequence[str]]) -> dict[str, Any]:
    """NPMI and C_V of top words, from how often they meet in windows over documents (Röder et al. 2015, as in gensim and OCTIS).

    ``npmi`` of a topic: the mean over its pairs of words of log(p_ij / (p_i p_j)) / -log p_ij, p being shares of the windows of
    10 words. ``c_v``: the mean over its words of the cosine between the word's NPMIs with all words of the topic and the sum of
    these vectors over the topic, p being shares of the windows of 110 words. Documents must keep the order of their words.

    Words that occur in no document are left out of their topic. Undefined, NaN in the list, are topics with fewer than two words
    left, and those with a pair (``c_v``: a word) that is in every window, for which NPMI is 0 / 0.

    Returns:
        ``npmi`` and ``c_v``, means over the topics that are defined; ``npmi_per_topic`` and ``c_v_per_topic``, lists of K;
        ``npmi_undefined`` and ``c_v_undefined``, numbers of topics; ``words_missing``, number of top words in no document.

    Raises:
        UserError: if one of the two is defined for no topic.
    """
    present = {word for document in documents for word in document}
    wanted = dict.fromkeys(word for topic in topics for word in topic)
    words = [word for word in wanted if word in present]
    number = {word: i for i, word in enumerate(words)}
    known = [[number[word] for word in topic if word in number] for topic in topics]
    result: dict[str, Any] = {}
    for name, measure, length in (("npmi", mean_npmi, NPMI_WINDOW), ("c_v", c_v, C_V_WINDOW)):
        pairs = npmi(*window_counts(words, documents, length))
        scores = np.array([measure(pairs[np.ix_(topic, topic)]) if len(topic) > 1 else np.nan for topic in known])
        defined = ~np.isnan(scores)
        if not defined.any():
            raise UserError(f"{name} is not defined for any of {len(topics)} topics in {len(documents)} documents: each has "
                            "fewer than two words that occur there, or words that are in every window; give more documents")
        result |= {name: float(scores[defined].mean()), f"{name}_per_topic": scores.tolist(),
                   f"{name}_undefined": int((~defined).sum())}
    return result | {"words_missing": len(wanted) - len(words)}


def npmi(counts: NDArray[np.int64], windows: int) -> NDArray[np.float64]:
    """Normalised pointwise mutual information ``(W, W)`` from counts of windows, NaN for what is in all of them."""
    p = counts / max(windows, 1)
    single = p.diagonal()
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.log((p + EPSILON) / np.outer(single, single)) / -np.log(p + EPSILON)
    return np.where(counts == windows, np.nan, value)


def mean_npmi(pairs: NDArray[np.float64]) -> float:
    """Mean of the NPMIs ``(n, n)`` of a topic's words, a word with itself left out."""
    return float(pairs[np.triu_indices(len(pairs), 1)].mean())


def c_v(pairs: NDArray[np.float64]) -> float:
    """C_V of a topic from the NPMIs ``(n, n)`` of its words."""
    whole = pairs.sum(0)
    norms = np.linalg.norm(pairs, axis=1) * np.linalg.norm(whole)
    return float((pairs @ whole / norms).mean()) if (norms > 0).all() else float("nan")


def diversity(topics: Sequence[Sequence[str]]) -> float:
    """Share of distinct words among all top words: 1 where no word is in two topics; Dieng et al. (2020) take 25 a topic."""
    words = [word for topic in topics for word in topic]
    if not words:
        raise UserError(f"diversity of {len(topics)} topics without words; give top_words(beta, vocabulary)")
    return len(set(words)) / len(words)


def clustering(labels: Sequence[Any], theta: Tensor) -> dict[str, float]:
    """``purity`` and ``nmi`` of documents with labels ``(N,)``, put together by their largest share of ``theta`` ``(N, K)``.

    Purity: the share of documents whose label is the commonest one of their cluster; it grows with K. NMI: mutual information
    over the mean of the two entropies, scikit-learn's.

    Raises:
        UserError: if the numbers of labels and documents differ, there is none, or a share is NaN.
    """
    if len(labels) != len(theta) or len(labels) == 0 or bool(theta.isnan().any()):
        raise UserError(f"clustering {len(theta)} documents with {len(labels)} labels, {int(theta.isnan().any(1).sum())} of them "
                        "with NaN as shares; give a label and finite shares for each document")
    codes = torch.as_tensor(np.unique(np.asarray(labels), return_inverse=True)[1])
    clusters = theta.detach().cpu().argmax(1)
    table = torch.zeros(theta.shape[1], int(codes.max()) + 1, dtype=torch.long)
    table.index_put_((clusters, codes), torch.ones_like(codes), accumulate=True)
    score = needed("sklearn.metrics").normalized_mutual_info_score(codes.numpy(), clusters.numpy())
    return {"purity": float(table.max(1).values.sum()) / len(labels), "nmi": float(score)}


def perplexity(log_likelihoods: Tensor, words: Tensor) -> float:
    """exp(-Σ log-likelihood / Σ words) over documents, both ``(N,)``; from ELBOs instead of likelihoods an upper bound."""
    total = float(words.double().sum())
    if log_likelihoods.shape != words.shape or total <= 0:
        raise UserError(f"perplexity of {tuple(log_likelihoods.shape)} log-likelihoods over {total:.0f} words of "
                        f"{tuple(words.shape)} documents; give one log-likelihood for each document, and documents with words")
    return float((-log_likelihoods.double().sum() / total).exp())


def sizes(theta: Tensor) -> Tensor:
    """Share of each topic in the corpus ``(K,)``: the mean of the documents' shares ``theta`` ``(N, K)``."""
    return theta.double().mean(0)
