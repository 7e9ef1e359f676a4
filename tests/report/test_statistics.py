"""The bootstrap over seeds and test rows, and Holm's correction, against SciPy, closed forms and hand computation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from rwkd_lightning.report.rows import Rows
from rwkd_lightning.report.statistics import difference, holm, replicates

DRAWS = 4000


def of(right: np.ndarray, identity: str = "same") -> Rows:
    return Rows(identity, lambda drawn: float(right[drawn].mean()), len(right))


def gain(ours: np.ndarray, theirs: np.ndarray, same_rows: bool = True):
    """The difference of the mean of ``(S, N)`` right answers."""
    names = ["same" if same_rows else str(seed) for seed in range(len(ours))]
    runs = [(float(x.mean()), of(x, name)) for both in (ours, theirs) for x, name in zip(both, names, strict=True)]
    drawn = replicates(runs, DRAWS)
    return difference(ours.mean(1) - theirs.mean(1), drawn[:, : len(ours)] - drawn[:, len(ours) :], ours.shape[1])


def test_one_seed_is_scipys_bootstrap_over_rows() -> None:
    """Prevents: an interval of the sum of two scores, as if the rows were not the same ones, or of another level."""
    random = np.random.default_rng(0)
    theirs = random.random(400) < 0.6
    ours = np.where(random.random(400) < 0.8, theirs, random.random(400) < 0.8)  # they agree on most rows
    found = gain(ours[None].astype(float), theirs[None].astype(float))
    peer = stats.bootstrap(
        (ours.astype(float) - theirs,), np.mean, n_resamples=20_000, method="percentile", random_state=1
    ).confidence_interval
    assert found.mean == pytest.approx(ours.mean() - theirs.mean()) and (found.seeds, found.rows) == (1, 400)
    assert found.low == pytest.approx(peer.low, abs=0.004) and found.high == pytest.approx(peer.high, abs=0.004)


def test_without_rows_it_is_scipys_bootstrap_over_seeds() -> None:
    """Prevents: seeds that are drawn apart for the two methods, so that what they share is taken for luck."""
    theirs = np.array([0.61, 0.70, 0.55, 0.66, 0.58, 0.63])
    gains = np.array([0.02, 0.03, 0.01, -0.01, 0.02, 0.04])  # far smaller than the spread of the seeds
    runs = [(float(x), None) for x in (*(theirs + gains), *theirs)]
    drawn = replicates(runs, DRAWS)
    found = difference(gains, drawn[:, :6] - drawn[:, 6:], 0)
    peer = stats.bootstrap((gains,), np.mean, n_resamples=20_000, method="percentile", random_state=1)
    assert found.low == pytest.approx(peer.confidence_interval.low, abs=0.002)
    assert found.high == pytest.approx(peer.confidence_interval.high, abs=0.002)
    share = np.mean(peer.bootstrap_distribution <= 0)
    assert found.p == pytest.approx(2 * share, abs=0.01) and 0.005 < found.p < 0.08


def test_rows_that_seeds_share_are_drawn_once() -> None:
    """Prevents: the same N rows counted as S N independent ones, which makes an interval too narrow by √S."""
    random = np.random.default_rng(0)
    seeds, rows = 8, 200
    hard = random.normal(size=rows)  # what a row gives to one of the methods, in every seed
    ours = np.tile(hard, (seeds, 1))
    crossed, nested = gain(ours, np.zeros_like(ours)), gain(ours, np.zeros_like(ours), same_rows=False)
    expected = 2 * 1.96 * hard.std() / math.sqrt(rows)  # the seeds add nothing
    assert crossed.high - crossed.low == pytest.approx(expected, rel=0.06)
    # other rows for each seed: N rows drawn within S drawn seeds, of which 1 + (S - 1) / S share theirs
    assert nested.high - nested.low == pytest.approx(expected * math.sqrt((2 - 1 / seeds) / seeds), rel=0.06)


def test_both_sources_add_up() -> None:
    """Prevents: an interval that leaves out the seeds or the rows. The variance of a mean of a + b, both drawn."""
    random = np.random.default_rng(0)
    a, b = random.normal(0, 0.1, (10, 1)), random.normal(0, 2, (1, 300))
    found = gain(a + b, np.zeros((10, 300)))
    deviation = math.sqrt(a.var() / 10 + b.var() / 300)
    assert found.high - found.low == pytest.approx(2 * 1.96 * deviation, rel=0.06)


@pytest.mark.parametrize(("shift", "low", "high"), [(0.0, 0.9, 1.0), (1.0, 0.0, 0.001)])
def test_p_is_two_sided_and_never_zero(shift: float, low: float, high: float) -> None:
    """Prevents: a p of 0, which says more than B replicates can, and one that is halved or above 1."""
    spread = np.tile([-0.1, 0.1], 3)
    for sign in (1, -1):
        drawn = np.tile(spread, (DRAWS, 1))
        found = difference(sign * (spread + shift), sign * (drawn + shift), 0)
        assert low <= found.p <= high and found.p >= 2 / (DRAWS + 1)


def test_where_nothing_can_be_drawn() -> None:
    """Prevents: an interval of width 0 from one seed without rows, and one that a missing score has spoiled."""
    alone = difference(np.array([0.1]), np.full((DRAWS, 1), 0.1), 0)
    assert alone.mean == 0.1 and all(map(math.isnan, (alone.low, alone.high, alone.p)))
    drawn = np.random.default_rng(0).normal(size=(DRAWS, 2))
    holes = drawn.copy()
    holes[:5] = math.nan
    assert difference(np.zeros(2), holes, 9).low == pytest.approx(difference(np.zeros(2), drawn, 9).low, abs=0.05)
    assert math.isnan(difference(np.array([math.nan, 0.1]), drawn, 9).p)


def test_holm_by_hand() -> None:
    """Prevents: Bonferroni, or Benjamini and Hochberg, under Holm's name; a corrected p that falls below another's."""
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005, "none": math.nan})
    assert math.isnan(found.pop("none"))
    # 4 × 0.005, 3 × 0.01, 2 × 0.03, then 0.04, which may not be less than 0.06
    assert found == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0} and holm({}) == {}
    # adjusting downwards, from the largest, is Benjamini and Hochberg's step
    assert found["c"] != pytest.approx(stats.false_discovery_control([0.01, 0.04, 0.03, 0.005])[2])
