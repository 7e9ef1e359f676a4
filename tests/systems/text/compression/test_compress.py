"""Block-wise weighted low rank: closed forms, invariants and counts of bytes, against numpy, scikit-learn and loops."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from sklearn.feature_extraction.text import CountVectorizer

from rwkd_lightning.systems.text.compression.compress import compress
from rwkd_lightning.systems.text.compression.grouping import by_error, by_score, clusters, numbers
from rwkd_lightning.systems.text.compression.low_rank import axes, balanced, factors
from rwkd_lightning.systems.text.compression.module import FactoredEmbedding
from rwkd_lightning.systems.text.compression.names import METHODS
from rwkd_lightning.systems.text.compression.scores import frequency, tfidf
from rwkd_lightning.utils.errors import UserError


def table(rows: int = 200, width: int = 12, seed: int = 0) -> tuple[Any, Any]:
    """A table whose spectrum falls, and counts as words have them."""
    draw = np.random.default_rng(seed)
    found = draw.normal(size=(rows, width)) @ np.diag(0.7 ** np.arange(width)) @ draw.normal(size=(width, width))
    return found, np.floor(1000 / (1 + np.arange(rows))) * (draw.random(rows) < 0.9) + 0.0


def test_weighted_low_rank_is_the_svd_of_scaled_rows() -> None:
    """Prevents: factors of a table whose rows count alike, and a division by a weight of 0."""
    a, p = table()
    p = p + 1e-3
    directions, explained = axes(a, p)
    for rank in (0, 1, 5, 12):
        rows, maps = factors(a, directions, rank)
        u, s, v = np.linalg.svd(np.sqrt(p)[:, None] * a, full_matrices=False)
        best = (u[:, :rank] * s[:rank]) @ v[:rank] / np.sqrt(p)[:, None]
        np.testing.assert_allclose(rows @ maps.T, best, atol=1e-9)
        missed = (p[:, None] * (a - rows @ maps.T) ** 2).sum()
        np.testing.assert_allclose(missed, explained[rank:].sum(), rtol=1e-9, atol=1e-9)
        even, scaled = balanced(rows, maps)
        np.testing.assert_allclose(even @ scaled.T, rows @ maps.T, atol=1e-12)
        np.testing.assert_allclose(np.linalg.norm(even, axis=0), np.linalg.norm(scaled, axis=0))
    zero = np.where(np.arange(200) % 2, p, 0.0)
    assert np.isfinite(factors(a, axes(a, zero)[0], 3)[0]).all()


def test_clusters_are_the_optimum() -> None:
    """Prevents: k-means that depends on where it starts."""
    draw = np.random.default_rng(1)
    for count in (1, 2, 3):
        x = draw.integers(0, 12, 14).astype(float) ** 2
        block = clusters(x, count)
        order = np.sort(x)

        def spread(ends: Any, order: Any = order) -> float:
            return sum(((part - part.mean()) ** 2).sum() for part in np.split(order, ends) if len(part))

        best = min(spread(ends) for ends in itertools.combinations(range(1, len(x)), min(count, len(set(x))) - 1))
        mine = sum(((x[block == b] - x[block == b].mean()) ** 2).sum() for b in set(block))
        np.testing.assert_allclose(mine, best, atol=1e-9)
        assert all(x[block == b].max() < x[block == b + 1].min() for b in range(block.max()))
    assert set(clusters(np.ones(9), 5)) == {0}
    many = draw.normal(size=5000)  # more distinct scores than are told apart
    assert np.bincount(clusters(many, 4)).min() > 100


@settings(max_examples=60, deadline=None)
@given(
    method=some.sampled_from(METHODS),
    ratio=some.floats(1.2, 12),
    rows=some.integers(30, 150),
    width=some.integers(2, 16),
    blocks=some.integers(1, 7),
    refine=some.booleans(),
    seed=some.integers(0, 9),
)
def test_the_budget_holds_and_each_word_has_its_block(
    method: str, ratio: float, rows: int, width: int, blocks: int, refine: bool, seed: int
) -> None:
    """Prevents: a table that is larger than it says, a word in no block, special tokens that are bent."""
    a, p = table(rows, width, seed)
    whole = (0, 3, 5)
    try:
        made = compress(a, p, ratio, method, blocks, whole, refine)
    except UserError as error:
        assert "give a smaller ratio" in str(error)
        return
    assert made.bytes <= rows * width * 4 / ratio + 4
    assert sorted(np.concatenate([b.words for b in made.blocks])) == list(range(rows))
    np.testing.assert_array_equal(made.dense()[list(whole)], a[list(whole)])
    module = FactoredEmbedding.of(made).double()
    np.testing.assert_allclose(module.dense().numpy(), made.dense(), atol=1e-5)
    ids = torch.arange(rows).reshape(-1, 1).flip(0)
    np.testing.assert_allclose(module(ids).detach().numpy(), module.dense()[ids].numpy(), atol=1e-7)


def test_refinement_and_more_numbers_never_raise_the_error() -> None:
    """Prevents: a refinement that costs accuracy, ranks that ignore the budget that they have."""
    for seed in range(4):
        a, p = table(300, 24, seed)
        errors = [compress(a, p, ratio, "blocks").error(a, p) for ratio in (8, 4, 2)]
        assert errors == sorted(errors, reverse=True)
        assert compress(a, p, 4, "blocks", refine=True).error(a, p) <= compress(a, p, 4, "blocks").error(a, p) + 1e-12
        assert compress(a, p, 4, "one_block").error(a, p) <= compress(a, p, 4, "svd").error(a, p) + 1e-12


def test_ranks_by_error_are_the_best_there_are() -> None:
    """Prevents: dimensions that another block would have used better."""
    draw = np.random.default_rng(2)
    rows, width = [7, 11], 4
    explained = [np.sort(draw.random(4))[::-1] * scale for scale in (3.0, 1.0)]
    for budget in range(20, 72, 7):
        found = by_error(rows, width, explained, budget)
        spent = sum(numbers(n, width, r) for n, r in zip(rows, found, strict=True))
        assert spent <= budget
        mine = sum(e[r:].sum() for e, r in zip(explained, found, strict=True))
        every = itertools.product(range(5), repeat=2)
        best = min(
            sum(e[r:].sum() for e, r in zip(explained, ranks, strict=True))
            for ranks in every
            if sum(numbers(n, width, r) for n, r in zip(rows, ranks, strict=True)) <= spent
        )
        np.testing.assert_allclose(mine, best)
    ranks = by_score([100, 10], 8, [1.0, 4.0], 400)
    assert ranks[1] == 8 and numbers(100, 8, ranks[0]) + numbers(10, 8, ranks[1]) <= 400


def test_scores_are_the_formulas() -> None:
    """Prevents: document frequencies that count a word twice."""
    texts = ["a b b c", "b d", "a a a a e"]
    counts = CountVectorizer(token_pattern=r"\w").fit_transform(texts).toarray()
    rows = [[ord(w) - ord("a") for w in text.split()] for text in texts]
    np.testing.assert_array_equal(frequency(rows, 6), [*(counts.sum(0) + 1), 1])
    n, df = len(texts), (counts > 0).sum(0)
    tf = (0.1 * counts / counts.max(1, keepdims=True)).sum(0) / n
    expected = tf * (np.maximum(np.log(n / (df + 2)), 0) + 1) + 1 / n
    np.testing.assert_allclose(tfidf(rows, 6), [*expected, 1 / n])


def test_a_ratio_that_cannot_be() -> None:
    """Prevents: blocks of rank 0 that answer every word alike."""
    a, p = table()
    with pytest.raises(UserError, match=r"ratio=40: a table of 200 x 12 in 240 bytes leaves no number for each word"):
        compress(a, p, 40)


def test_gradients_are_those_of_the_product() -> None:
    """Prevents: a factor that no gradient reaches, or one that a word of another block moves."""
    a, p = table(40, 6)
    module = FactoredEmbedding.of(compress(a, p, 2.0, blocks=3, whole=(1,))).double()
    ids = torch.tensor([[1, 2, 39], [2, 0, 7]])
    weights = torch.randn(2, 3, 6, dtype=torch.float64)
    (module(ids) * weights).sum().backward()
    rows = [x.detach().clone().requires_grad_() for x in module.rows]
    maps = [x.detach().clone().requires_grad_() for x in module.maps]
    whole = torch.cat([r if s.rank < 0 else r @ m.T for s, r, m in zip(module.shapes, rows, maps, strict=True)])
    (whole[module.places.long()][ids] * weights).sum().backward()
    for mine, theirs in zip((*module.rows, *module.maps), (*rows, *maps), strict=True):
        if mine.numel():
            torch.testing.assert_close(mine.grad, theirs.grad)
