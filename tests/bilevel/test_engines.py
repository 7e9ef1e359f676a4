from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from rwkd_lightning.bilevel import FiniteDifference, Jvp, Problem, RandomState, Unrolled, normalised, surrogate_loss
from rwkd_lightning.utils.errors import UserError

ENGINES = {
    "unrolled": (Unrolled(), 1e-6),
    "jvp": (Jvp(), 1e-6),
    "one-sided": (FiniteDifference(1e-5), 1e-3),
    "central": (FiniteDifference(1e-3, central=True), 1e-3),
}
engines = pytest.mark.parametrize("engine", ENGINES)
lookaheads = pytest.mark.parametrize("lookahead", [None, 0.2], ids=["theta", "lookahead"])
dropouts = pytest.mark.parametrize("dropout", [0.0, 0.1], ids=["fused", "dropout"])


def compare(case, engine, relative):
    """u, row by row, and ∇_φ through the surrogate loss against the double backward."""
    method, tolerance = ENGINES[engine]
    torch.rand(3)  # the generators have moved on since the training pass
    u, by_phi = case.reference()
    found = method.influence(case.problem())
    assert found.shape == u.shape and not found.requires_grad
    for row, expected in zip(found, u, strict=True):
        assert relative(row, expected) < tolerance
    loss = surrogate_loss(case.weights(), found, case.step)
    assert relative(list(torch.autograd.grad(loss, list(case.phi.parameters()))), by_phi) < tolerance


@pytest.mark.parametrize("kind", ["K=2", "K=3", "regression"])
@dropouts
@lookaheads
@engines
def test_engine_equals_double_backward(small_case, relative, engine, lookahead, dropout, kind):
    """Prevents a wrong sign, a missing 1/n, a fresh dropout mask or a batch mean in place of a per-sample u."""
    compare(small_case(kind, dropout, lookahead), engine, relative)


@pytest.mark.parametrize(
    "names,rows,dropout,lookahead",
    [
        (("network.bert.encoder.layer.5.", "network.bert.pooler.", "network.classifier."), 3, 0.0, None),
        (("network.bert.encoder.layer.5.", "network.bert.pooler.", "network.classifier."), 3, 0.1, 0.05),
        (("network.",), 1, 0.0, 0.05),
        (("network.",), 1, 0.1, None),
    ],
)
@engines
def test_engine_on_minilm(minilm_case, relative, engine, names, rows, dropout, lookahead):
    """Prevents an engine that holds on toys only: fused attention, a trained encoder, θ a part of the student."""
    case = minilm_case(names, dropout, lookahead, rows)
    compare(case, engine, relative)


@lookaheads
def test_lookahead_is_another_estimator(small_case, relative, lookahead):
    """Prevents v taken at θ where the lookahead was asked for: the two must differ by far more than the tolerance."""
    here, ahead = (Jvp().influence(small_case(lookahead=a).problem()) for a in (None, 0.2))
    assert relative(here, ahead) > 1e-2


def test_rows_stand_alone(small_case, relative):
    """Prevents a batch mean: u of a row does not change when the other rows leave (θ fixed, no lookahead)."""
    case = copy.copy(small_case())
    whole = Jvp().influence(case.problem())
    case.batch = {k: v[1:2] for k, v in case.batch.items()}
    assert relative(Jvp().influence(case.problem())[0], whole[1]) < 1e-10


def test_stationary_point_has_no_influence(small_case):
    """Prevents 0/0 in the step radius/‖v‖ of the finite difference."""
    case = small_case()
    problem = case.problem()
    problem.meta_loss = lambda p: sum((q * 0).sum() for q in p.values())
    for engine in (FiniteDifference(), FiniteDifference(central=True), Jvp()):
        assert torch.equal(engine.influence(problem), torch.zeros(4, 2, dtype=torch.float64))


@pytest.mark.parametrize("engine", [Jvp(), FiniteDifference(), FiniteDifference(central=True)], ids=repr)
@dropouts
def test_bf16_autocast(small_case, engine, dropout, relative):
    """Prevents differences taken in bf16 arithmetic, and forward mode that breaks under autocast."""
    case = copy.deepcopy(small_case("K=2", dropout))
    case.student.float()
    case.phi.float()
    case.batch["teacher_logits"] = case.batch["teacher_logits"].float()
    expected = Jvp().influence(case.problem())
    with torch.autocast("cpu", torch.bfloat16):
        found = engine.influence(case.problem())
    assert relative(found, expected) < 0.1


@pytest.mark.parametrize("radius", [0.0, -1e-3, float("nan")])
def test_bad_radius_is_named(radius):
    """Prevents a silent division by zero in every meta step."""
    with pytest.raises(UserError, match=str(radius)):
        FiniteDifference(radius)


def test_surrogate_closed_form():
    """Prevents a lost sign, a or 1/n: −(a/n)·Σ u·w by hand."""
    w = torch.tensor([[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]], requires_grad=True)
    u = torch.tensor([[1.0, -2.0], [0.0, 4.0], [3.0, 5.0]], requires_grad=True)
    loss = surrogate_loss(w, u, 0.1)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(-0.1 / 3 * (0.25 - 1.5 + 2 + 3))
    assert torch.allclose(w.grad, -0.1 / 3 * u.detach())
    assert u.grad is None


def test_normalised():
    """Prevents a φ-gradient that sinks under Adam's ε, and 0/0 for a batch without influence."""
    u = torch.tensor([[1.0, -3.0], [2.0, 2.0]])
    assert torch.allclose(normalised(u * 3e-9), u / 2)
    assert torch.equal(normalised(torch.zeros(2, 2)), torch.zeros(2, 2))


def test_replay_repeats_the_mask_and_leaves_the_stream():
    """Prevents a fresh dropout mask in the perturbed pass, and masks of training that depend on the meta step."""
    drop = nn.Dropout(0.5)
    state = RandomState.capture(torch.device("cpu"))
    first = drop(torch.ones(50))
    after = torch.get_rng_state()
    for _ in range(2):
        with state.replay():
            assert torch.equal(drop(torch.ones(50)), first)
        assert torch.equal(torch.get_rng_state(), after)


def test_quadratic_by_hand():
    """Prevents an error that the reference of the other tests shares: closed form, no network, no autograd.

    l_ik = (x_i·θ − y_ik)²/2, L_meta = |θ|²/2: with r_ik = x_i·θ − y_ik, v = θ̂ and u_ik = r_ik·(x_i·θ̂).
    """
    g = torch.Generator().manual_seed(0)
    x, y, theta, w = (torch.rand(*s, generator=g, dtype=torch.float64) for s in ((4, 3), (4, 2), (3,), (4, 2)))
    residual = (x @ theta)[:, None] - y
    for a in (None, 0.3):
        hat = theta if a is None else theta - a * ((w * residual).sum(1)[:, None] * x).mean(0)
        expected = residual * (x @ hat)[:, None]
        problem = Problem({"t": theta}, lambda p: {"s": x @ p["t"]}, lambda o: (o["s"][:, None] - y) ** 2 / 2,
                          lambda p: (p["t"] ** 2).sum() / 2, w, a)  # fmt: skip
        for engine in (Unrolled(), Jvp(), FiniteDifference(), FiniteDifference(central=True)):
            assert torch.allclose(engine.influence(problem), expected, rtol=1e-9)
