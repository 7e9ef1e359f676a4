"""Cross-fitted RW-KD: its regression against scikit-learn's, its penalty, its halves."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import nn

from rwkd_lightning import GivenWeights, Permuted
from rwkd_lightning.meta.step import mean_of_half
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting import CrossFittedRWKD, Reject, Sigmoid, Softmax, Step
from rwkd_lightning.weighting.rwkd_cross_fitted import PENALTIES, REFIT

ROWS = 16


class Columns(nn.Module):
    """The batch's own features."""

    def __init__(self, width=2):
        super().__init__()
        self.width = width

    def forward(self, step):
        return step.batch["x"]


def visits(count, influence, seed=0, rows=ROWS, width=2):
    """Steps whose influence ``(B, 2)`` is a function of the features ``(B, width)`` and a generator, halves in turn."""
    g = torch.Generator().manual_seed(seed)
    for number in range(count):
        x = torch.randn(rows, width, generator=g, dtype=torch.float64)
        u = influence(x, g)
        yield Step(
            torch.ones(rows, 2, dtype=torch.float64),
            torch.ones(rows, 2, dtype=torch.bool),
            ("ce", "kd"),
            {},
            {"x": x, "index": torch.arange(rows)},
            influence=u,
            half=number % 2,
        )


def taught(steps, **options):
    method = CrossFittedRWKD(Columns(), **options).double()
    for step in steps:
        method.observe(step)
    return method


def noise(x, g):
    return torch.randn(len(x), 2, generator=g, dtype=torch.float64)


def two_sided(x, g):
    """The first term helps where x_0 is large, the second where x_0·x_1 is."""
    return 0.1 * torch.stack([x[:, 0], x[:, 0] * x[:, 1]], 1) + 0.3 * noise(x, g)


def test_the_fit_is_the_ridge_regression_that_predicts_the_other_half_best():
    """Prevents a fit with another penalty than the one it names, on the rows of the wrong half, or in wrong units."""
    steps = list(visits(REFIT, two_sided))
    method = taught(steps)
    first = steps[0].batch["x"].numpy()
    z = [((s.batch["x"].numpy() - first.mean(0)) / first.std(0)).clip(-3, 3) for s in steps]
    pairs = [(0, 0), (0, 1), (1, 1)]
    p = [np.column_stack([x, *(x[:, i] * x[:, j] for i, j in pairs)]) for x in z]
    rows = {h: np.concatenate(p[h::2]) for h in (0, 1)}
    u = {h: np.concatenate([s.influence.numpy() for s in steps[h::2]]) for h in (0, 1)}
    unit = np.mean([s.influence.abs().mean() for s in steps])
    for term in (0, 1):
        best = None
        for penalty in PENALTIES:
            fits = {}
            for h in (0, 1):  # a ridge with a penalty of each column's own size is one on scaled columns
                scale = np.sqrt((rows[h] ** 2).mean(0))
                ridge = Ridge(alpha=penalty * len(rows[h])).fit(rows[h] / scale, u[h][:, term])
                fits[h] = np.append(ridge.intercept_, ridge.coef_ / scale)
            one = {h: np.column_stack([np.ones(len(rows[h])), rows[h]]) for h in (0, 1)}
            error = sum(((one[1 - h] @ fits[h] - u[1 - h][:, term]) ** 2).mean() for h in (0, 1))
            if best is None or error < best[0]:
                best = error, (fits[0] + fits[1]) / 2 / unit
        np.testing.assert_allclose(method.coefficients[:, term].numpy(), best[1], atol=2e-5)
    step = steps[-1]
    fitted = method.design(step.batch["x"]) @ method.coefficients
    torch.testing.assert_close(method(step), torch.sigmoid(fitted / 0.3), rtol=1e-6, atol=1e-9)


def test_where_samples_do_not_differ_one_weight_is_left():
    """Prevents weights that follow noise: the two halves do not confirm each other, so nearly all is shrunk away."""
    method = taught(visits(10 * REFIT, lambda x, g: noise(x, g) + torch.tensor([0.5, -0.5])))
    (step,) = visits(1, noise, seed=1)
    weights = method(step)
    assert float(weights.std(0).max()) < 0.03
    assert float(weights[:, 0].min()) > 0.7 and float(weights[:, 1].max()) < 0.3


def test_where_samples_differ_they_are_told_apart():
    """Prevents a penalty that never lets go, or a product of features that is not read."""
    method = taught(visits(10 * REFIT, two_sided))
    (step,) = visits(1, noise, seed=1, rows=200)
    x, weights = step.batch["x"], method(step)
    for term, truth in enumerate((x[:, 0], x[:, 0] * x[:, 1])):
        assert float(torch.corrcoef(torch.stack([weights[:, term], truth]))[0, 1]) > 0.85


def test_visits_without_a_value_teach_nothing():
    """Prevents a term's fit that reads rows in which it has no value: their influence is 0 and their features too."""
    steps = list(visits(REFIT, two_sided))
    method = taught(steps)
    for step in steps:
        more = torch.full((ROWS, 2), 50.0, dtype=torch.float64)
        step.batch["x"] = torch.cat([step.batch["x"], more])
        step.influence = torch.cat([step.influence, torch.full_like(more, torch.nan)])
        step.valid = torch.cat([step.valid, torch.zeros_like(step.valid)])
        step.losses = torch.ones_like(step.influence)
    units = CrossFittedRWKD(Columns()).double()
    units.standardise(steps[0].batch["x"][:ROWS])
    units.standardise = lambda features: None  # the units are of all rows; here of the same ones
    for step in steps:
        units.observe(step)
    torch.testing.assert_close(units.coefficients, method.coefficients, rtol=1e-6, atol=1e-8)


def test_before_the_first_fit_all_weigh_the_same_and_a_resumed_run_goes_on():
    """Prevents a first fit to a handful of rows, and a run that fits at other steps after it was resumed."""
    steps = list(visits(2 * REFIT, two_sided))
    early = taught(steps[: REFIT - 1])
    assert early(steps[0]).unique().tolist() == [0.5]
    resumed = CrossFittedRWKD(Columns()).double()
    resumed.load_state_dict(early.state_dict())
    for step in steps[REFIT - 1 :]:
        resumed.observe(step)
    assert torch.equal(resumed.coefficients, taught(steps).coefficients) and resumed.coefficients.any()


def test_constant_and_repeated_features_are_harmless():
    """Prevents weights that are not numbers where the sums of squares have no inverse."""

    class Degenerate(Columns):
        def forward(self, step):
            x = step.batch["x"]
            return torch.stack([x[:, 0], x[:, 0], torch.full_like(x[:, 0], 7.0)], 1)

    method = CrossFittedRWKD(Degenerate(3))
    for step in visits(3 * REFIT, two_sided):
        method.observe(step)
    assert bool(method(step).isfinite().all()) and float(method(step)[:, 0].std()) > 0.05


def test_half_precision_rounds_nothing():
    """Prevents sums of products with eight bits, from which small effects are lost, in a run with `bf16-mixed`."""
    found = []
    for enabled in (False, True):
        method = CrossFittedRWKD(Columns())
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            for step in visits(REFIT, two_sided):
                method.observe(step)
            found += [method.sums, method(step)]
    assert torch.equal(found[0], found[2]) and torch.equal(found[1], found[3])


@pytest.mark.parametrize("gate", [Softmax, Sigmoid, Reject])
def test_every_gate(gate):
    """Prevents a gate whose further logit is missing, and weights beyond its range."""
    method = taught(visits(REFIT, two_sided), gate=gate())
    (step,) = visits(1, noise, seed=1)
    weights = method(step)
    assert weights.shape == (ROWS, 2) and bool((weights >= 0).all()) and float(weights.std()) > 0
    if gate is Softmax:
        torch.testing.assert_close(weights.sum(1), torch.ones(ROWS, dtype=torch.float64))


def test_wrapped_methods_learn_from_the_same():
    """Prevents `given` whose inner method learns from u where it should learn from g·u, and halves that are lost."""
    steps, given = list(visits(REFIT, two_sided)), torch.arange(ROWS, dtype=torch.float64)
    alone = taught(steps)
    scaled = taught([dataclasses.replace(step, influence=step.influence * given[:, None]) for step in steps])
    for wrapper, expected in (
        (Permuted(CrossFittedRWKD(Columns()).double()), alone),
        (GivenWeights(CrossFittedRWKD(Columns()).double()), scaled),
    ):
        assert wrapper.by_halves and wrapper.needs_influence and not wrapper.reads_influence
        for step in steps:
            step.batch["sample_weight"] = given
            wrapper.observe(step)
        torch.testing.assert_close(wrapper.inner.sums, expected.sums)
        torch.testing.assert_close(wrapper.inner.coefficients, expected.coefficients)


def test_mean_of_half():
    """Prevents a meta loss over the rows of both halves, and one that is not finite where a half has no row."""
    rows, index = torch.tensor([1.0, 10.0, 3.0]), torch.tensor([4, 7, 2])
    assert mean_of_half(rows, index, 0) == 2 and mean_of_half(rows, index, 1) == 10
    assert mean_of_half(rows[:1], index[:1], 1) == 0


@pytest.mark.parametrize("tau", [0.0, -1.0, math.inf, math.nan])
def test_tau_out_of_range(tau):
    """Prevents weights that are not numbers in the first step of a run."""
    with pytest.raises(UserError, match="`tau` is"):
        CrossFittedRWKD(Columns(), tau=tau)


def test_too_many_features():
    """Prevents gigabytes of products of features."""
    with pytest.raises(UserError, match="width=41.*40 at most"):
        CrossFittedRWKD(Columns(41))
