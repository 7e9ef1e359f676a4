"""Topic scores against gensim, scikit-learn and closed forms."""

import itertools
import math
import sys

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics

from rwkd_lightning.systems.topics.metrics import clustering, coherence, diversity, perplexity, sizes, top_words
from rwkd_lightning.systems.topics.needs import needed
from rwkd_lightning.utils.errors import UserError

VOCABULARY = [f"w{i}" for i in range(40)]


def corpus(documents, longest, seed=0, repeats=True):
    """Documents of 1 to ``longest`` words of a Zipf-like vocabulary, each word at most once a document without
    ``repeats``.
    """
    rng = np.random.default_rng(seed)
    p = 1 / np.arange(1, 41)
    lengths = rng.integers(1, longest + 1, documents)
    return [rng.choice(VOCABULARY, length, replace=repeats, p=p / p.sum()).tolist() for length in lengths]


def random_topics(count, words=6, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.choice(VOCABULARY, words, replace=False).tolist() for _ in range(count)]


def brute_force(topic, documents, length):
    """NPMIs ``(n, n)`` from sets of words, window by window."""
    held = [set(d[i : i + length]) for d in documents for i in range(max(1, len(d) - length + 1))]
    p = {(a, b): sum(a in window and b in window for window in held) / len(held) for a in topic for b in topic}
    value = {(a, b): math.log((p[a, b] + 1e-12) / (p[a, a] * p[b, b])) / -math.log(p[a, b] + 1e-12) for a, b in p}
    return np.array([[value[a, b] for b in topic] for a in topic])


def test_coherence_equals_the_published_definition():
    """Prevents other windows, other pairs or the wrong topics' words, where no word repeats and gensim counts windows
    plainly.
    """
    documents, topics = corpus(80, 30, repeats=False), random_topics(5)
    found = coherence(topics, documents)
    for k, topic in enumerate(topics):
        near, far = brute_force(topic, documents, 10), brute_force(topic, documents, 110)
        assert found["npmi_per_topic"][k] == pytest.approx(
            np.mean([near[i, j] for i, j in itertools.combinations(range(6), 2)])
        )
        cosines = [row @ far.sum(0) / np.sqrt(row @ row * (far.sum(0) @ far.sum(0))) for row in far]
        assert found["c_v_per_topic"][k] == pytest.approx(np.mean(cosines))


def test_coherence_at_its_ends():
    """Prevents a scale that is off or upside down: words that always meet have 1, words that never do almost -1."""
    documents = [["a", "b"]] * 3 + [["c"], ["d"]] * 2
    found = coherence([["a", "b"], ["c", "d"]], documents)
    assert found["npmi_per_topic"] == pytest.approx([1, -1], abs=0.1)
    assert found["npmi_per_topic"][0] == pytest.approx(1, abs=1e-9)
    assert found["c_v_per_topic"][0] == pytest.approx(1, abs=1e-9)


def test_undefined_topics_are_counted_and_left_out():
    """Prevents a NaN as the mean, and a C_V of 1 for a single known word."""
    documents = [["x", "y", "a", "b"], ["x", "y", "a"], ["x", "y", "c"], ["x", "y", "b", "c"]]
    topics = [["a", "b"], ["a", "nowhere"], ["nowhere", "neither"]]
    found = coherence(topics, documents)
    for name in ("npmi", "c_v"):
        first, *others = found[f"{name}_per_topic"]
        assert found[name] == first == coherence(topics[:1], documents)[name]
        assert np.isnan(others).all()
    assert found["undefined"] == 2
    assert found["words_missing"] == 2
    assert coherence([["a", "b", "nowhere"]], documents)["npmi"] == found["npmi"]


@pytest.mark.parametrize("documents", [[], [[]], [["a", "b"]], [["c"], ["d", "c"]]])
def test_coherence_of_nothing_is_refused(documents):
    """Prevents a table with NaN, or with the -1 that gensim gives for a single document."""
    with pytest.raises(
        UserError, match="coherence is not defined for any of 1 topics in [012] documents.*more documents"
    ):
        coherence([["a", "b"]], documents)


def test_documents_without_words_are_no_windows():
    """Prevents coherence that grows with the number of empty documents."""
    documents = corpus(30, 12)
    assert coherence(random_topics(3), [[], *documents, []]) == coherence(random_topics(3), documents)


def test_top_words_come_by_weight_then_vocabulary():
    """Prevents top words that differ between machines where weights are equal, as those of words that never occur."""
    beta = torch.tensor([[0.1, 0.4, 0.1, 0.4], [3.0, -1.0, 2.0, 5.0]])
    assert top_words(beta, ["a", "b", "c", "d"], 3) == [["b", "d", "a"], ["d", "a", "c"]]
    assert top_words(torch.zeros(1, 40), VOCABULARY) == [VOCABULARY[:10]]


def test_top_words_refuse_what_has_none():
    """Prevents a diverged model whose NaNs are sorted to the front as its top words, and words of another
    vocabulary.
    """
    beta = torch.zeros(3, 40)
    beta[2, 5] = float("nan")
    with pytest.raises(UserError, match="topic 2 has a weight that is NaN"):
        top_words(beta, VOCABULARY)
    with pytest.raises(UserError, match="10 top words of topics over 40 words with a vocabulary of 39"):
        top_words(torch.zeros(3, 40), VOCABULARY[:-1])
    with pytest.raises(UserError, match="41 top words of topics over 40 words"):
        top_words(torch.zeros(3, 40), VOCABULARY, 41)


def test_diversity():
    """Prevents a share of something else: 1 for disjoint topics, 1 / K for K equal ones."""
    assert diversity([["a", "b"], ["c", "d"]]) == 1
    assert diversity([["a", "b"]] * 4) == 0.25
    assert diversity([["a", "b", "c"], ["a", "d", "e"]]) == pytest.approx(5 / 6)
    with pytest.raises(UserError, match="topics without words"):
        diversity([])


@pytest.mark.parametrize("kind", [str, int])
def test_clustering_equals_scikit_learn(kind):
    """Prevents purity by rows instead of columns, and clusters by the smallest share; labels may be words or
    numbers.
    """
    rng = np.random.default_rng(0)
    theta, labels = rng.dirichlet(np.full(7, 0.3), 200), [kind(label) for label in rng.integers(3, 8, 200)]
    clusters = theta.argmax(1)
    table = sklearn_metrics.cluster.contingency_matrix(labels, clusters)
    expected = {
        "purity": table.max(0).sum() / 200,
        "nmi": sklearn_metrics.normalized_mutual_info_score(labels, clusters),
    }
    assert clustering(labels, torch.tensor(theta)) == pytest.approx(expected, abs=1e-12)


def test_clustering_at_its_ends():
    """Prevents a score of 1 for less than the labels themselves, in any order."""
    labels = ["c", "a", "b", "a"]
    assert clustering(labels, torch.eye(4)[[2, 0, 3, 0]]) == pytest.approx({"purity": 1, "nmi": 1})
    assert clustering(labels, torch.tensor([[0.7, 0.3]] * 4)) == pytest.approx({"purity": 0.5, "nmi": 0})


@pytest.mark.parametrize(
    ("labels", "theta"),
    [(["a"], torch.ones(2, 3)), ([], torch.ones(0, 3)), (["a", "b"], torch.tensor([[0.5, 0.5], [float("nan"), 0.5]]))],
)
def test_clustering_refuses(labels, theta):
    """Prevents labels set against the wrong documents, and NaN taken for the largest share."""
    with pytest.raises(UserError, match=rf"clustering {len(theta)} documents with {len(labels)} labels"):
        clustering(labels, theta)


def test_perplexity():
    """Prevents a mean of documents' perplexities: of V equally likely words it is V, however long the documents are."""
    words = torch.tensor([3, 50, 1])
    assert perplexity(-words * math.log(40.0), words) == pytest.approx(40)
    assert perplexity(torch.tensor([-2.0, -4.0]), torch.tensor([1, 9])) == pytest.approx(math.exp(0.6))
    with pytest.raises(UserError, match="over 0 words"):
        perplexity(torch.zeros(2), torch.zeros(2))
    with pytest.raises(UserError, match=r"\(2,\) log-likelihoods over 3 words of \(3,\) documents"):
        perplexity(torch.zeros(2), torch.ones(3))


def test_sizes():
    """Prevents topics counted by their largest documents: sizes are expected shares and sum to 1."""
    assert sizes(torch.tensor([[0.9, 0.1], [0.6, 0.4]])).tolist() == pytest.approx([0.75, 0.25])


def test_missing_library_is_named(monkeypatch):
    """Prevents a traceback at the end of a run on a machine without the extra."""
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(
        UserError, match=r"sklearn.metrics, which cannot be imported.*pip install \"rwkd_lightning\[topics\]\""
    ):
        clustering(["a", "b"], torch.eye(2))
    assert needed("math") is math
