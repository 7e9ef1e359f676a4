"""LDA on a corpus whose topics are known."""

import numpy as np
import pytest
import scipy.sparse
import torch

from benchmarks import lda as baseline
from benchmarks.lda import lda, lda_and_shares
from rwkd_lightning.utils.errors import UserError


def two_themes(documents=200):
    """Documents of twelve words, those of the even ones from the first half of 20 words, of the others from the
    second.
    """
    rng = np.random.default_rng(0)
    counts = np.zeros((documents, 20), int)
    for document, row in enumerate(counts):
        np.add.at(row, rng.integers(0, 10, 12) + 10 * (document % 2), 1)
    return scipy.sparse.csr_matrix(counts)


@pytest.mark.parametrize("online_from", [0, 1000])
def test_lda_finds_the_themes(online_from, monkeypatch):
    """Prevents a baseline that is no opponent: topics mixed up, or weights that are no probabilities."""
    monkeypatch.setattr(baseline, "ONLINE_FROM", online_from)
    beta, theta = lda_and_shares(two_themes(), 2, seed=0)
    halves = beta.view(2, 2, 10).sum(2)
    assert beta.sum(1).tolist() == pytest.approx([1, 1]) and theta.sum(1).tolist() == pytest.approx([1] * 200)
    assert sorted(halves.argmax(1).tolist()) == [0, 1] and bool((halves.max(1).values > 0.95).all())
    of_even = int(halves[:, 0].argmax())
    assert (theta.argmax(1) == of_even).tolist() == [document % 2 == 0 for document in range(200)]


def test_lda_depends_on_its_seed_only():
    """Prevents a baseline that gives other figures when the run is repeated."""
    first, again, other = (lda(two_themes(), 3, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_lda_refuses_nothing():
    """Prevents scikit-learn's traceback for a corpus of which no word is left."""
    with pytest.raises(UserError, match="LDA with 2 topics on 5 documents of 0 words"):
        lda(scipy.sparse.csr_matrix((5, 20)), 2, 0)
    with pytest.raises(UserError, match="LDA with 0 topics"):
        lda(two_themes(), 0, 0)
