"""The options of the meta-learner: what the network reads, how its outputs become weights, smoothing; numbers by other
means.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from scipy.special import expit, softmax
from scipy.stats import entropy
from torch import nn

from rwkd_lightning.run.build import weighting_of
from rwkd_lightning.terms import CrossEntropy, DistillationKL, LogitMSE, SoftCrossEntropy, stack
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting import (
    RWKD,
    ClassificationFeatures,
    EarlierInfluence,
    EarlierWeights,
    History,
    Permuted,
    Reject,
    Sigmoid,
    Softmax,
    Step,
    Together,
    Visits,
    masked,
)

CONF = Path(__file__).parents[2] / "conf"
TERMS = ("ce", "kd", "logit_mse")
U = torch.tensor([[1.0, 3.0], [-1.0, -2.0], [0.5, -4.0], [-2.0, 1e-3]], dtype=torch.float64)
GATES = {"softmax": Softmax, "sigmoid": Sigmoid, "reject": Reject}


def history(k=2, dtype=torch.float32):
    """Of four samples: never seen; seen before the first meta step only; seen once and three times with one."""
    g = torch.Generator().manual_seed(3)
    count, weights = torch.tensor([[0.0], [0.0], [1.0], [3.0]]), torch.rand(4, k, generator=g)
    weights[0] = 0
    weights[1:] /= weights[1:].sum(1, keepdim=True)
    return History(count.to(dtype), (torch.randn(4, k, generator=g) * count).to(dtype), weights.to(dtype))


def make_step(k=2, dtype=torch.float64, **changes):
    """Four rows of three classes; the losses carry the student's graph."""
    g = torch.Generator().manual_seed(0)
    logits = (2 * torch.randn(4, 3, generator=g)).to(dtype).requires_grad_()
    batch = {"labels": torch.arange(4) % 3, "index": torch.arange(4),
             "teacher_logits": (2 * torch.randn(4, 3, generator=g)).to(dtype)}  # fmt: skip
    losses = stack([CrossEntropy(), DistillationKL(2.0), LogitMSE()][:k], {"logits": logits}, batch)
    u = torch.randn(4, k, generator=g).to(dtype)
    fields = {
        "losses": losses,
        "valid": torch.ones(4, k, dtype=torch.bool),
        "terms": TERMS[:k],
        "outputs": {"logits": logits.detach()},
        "batch": batch,
        "influence": u,
        "history": history(k, dtype),
        **changes,
    }
    return Step(**fields)


def rwkd(k=2, features=None, seed=1, **options):
    """In float64, away from the uniform start."""
    method = RWKD(features or ClassificationFeatures(), TERMS[:k], **options).double()
    g = torch.Generator().manual_seed(seed)
    for p in method.parameters():
        p.data = 0.4 * torch.randn(p.shape, generator=g, dtype=p.dtype)
    return method


def normal(u):
    return u / u.abs().mean()


# The default


def test_default_is_bit_identical():
    """Prevents options that are off from changing a bit of the weights, the network's start or the random stream, or
    φ's gradient.
    """
    step = make_step(dtype=torch.float32)
    torch.manual_seed(5)
    method = RWKD(ClassificationFeatures())
    after = torch.rand(1)
    torch.manual_seed(5)
    last, first = nn.Linear(32, 2), nn.Linear(8, 32)
    assert torch.equal(after, torch.rand(1))
    assert torch.equal(method.network[0].weight, first.weight) and torch.equal(method.network[0].bias, first.bias)
    assert not method.network[2].weight.any() and not method.network[2].bias.any()
    method.network[2].load_state_dict(last.state_dict())
    mean = (step.history.total + normal(step.influence)) / (step.history.count + 1)
    expected = (last(torch.tanh(first(ClassificationFeatures()(step)))) + 0.5 * mean).softmax(1)
    assert torch.equal(method(step), expected)

    w = masked(expected, step.valid)
    loss = -(normal(step.influence) * w).sum(1).mean() + (w * w.clamp_min(1e-12).log()).sum(1).mean()
    torch.testing.assert_close(method.own_loss(step), loss)
    gradients = torch.autograd.grad(loss, [*first.parameters(), *last.parameters()])
    for found, wanted in zip(
        torch.autograd.grad(method.own_loss(step), list(method.parameters())), gradients, strict=True
    ):
        torch.testing.assert_close(found, wanted)


def test_shipped_config_is_the_default():
    """Prevents a config whose weights differ from those of RWKD as it is without options."""
    torch.manual_seed(5)
    shipped = configured()
    torch.manual_seed(5)
    plain = RWKD(ClassificationFeatures(2.0))
    step = make_step(dtype=torch.float32)
    assert repr(shipped) == repr(plain) == "rwkd(lr=0.003, entropy=1, evidence=0.5, gate=softmax, smoothing=0)"
    assert all(torch.equal(a, b) for a, b in zip(shipped.parameters(), plain.parameters(), strict=True))
    assert torch.equal(shipped(step), plain(step))


# Gates

LOGITS = {2: [[0.3, -1.2], [4.0, 2.0], [-3.0, 0.5]], 3: [[0.3, -1.2, 2.0], [4.0, 2.0, -1.0], [-3.0, 0.5, 0.0]]}
EXTRA = [0.7, -2.0, 1.5]  # the logits of "no term"


def by_hand(name, k):
    """Logits and weights, ``(B, any)`` each."""
    g = np.array(LOGITS[k])
    if name == "softmax":
        return g, softmax(g, 1)
    if name == "sigmoid":
        return g, 2 / k * expit(g)
    g = np.column_stack([g, EXTRA])
    return g, softmax(g, 1)[:, :-1] * (k + 1) / k


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("name", GATES)
def test_gate_by_hand(name, k):
    """Prevents a gate that weights by another formula than its name says, or starts with another total than 1."""
    logits, weights = by_hand(name, k)
    gate = GATES[name]()
    assert gate.width(k) == logits.shape[1]
    np.testing.assert_allclose(gate(torch.tensor(logits)).numpy(), weights, rtol=1e-12)
    start = gate(torch.zeros(2, gate.width(k), dtype=torch.float64))
    torch.testing.assert_close(start, torch.full((2, k), 1 / k, dtype=torch.float64))


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("name", GATES)
def test_gate_entropy(name, k):
    """Prevents an entropy of something else than the gate's distribution: of weights that are none, of K where K + 1
    choose.
    """
    logits, _ = by_hand(name, k)
    g = torch.tensor(logits, requires_grad=True)
    weights = GATES[name]()(g)
    (slope,) = torch.autograd.grad(weights, g, GATES[name]().entropy_slope(weights.detach()))
    if name == "sigmoid":
        p = torch.sigmoid(g)
        expected = g * p * (1 - p)
    else:
        p = g.softmax(1)
        expected = p * (p.log() - (p * p.log()).sum(1, keepdim=True))
    torch.testing.assert_close(slope, expected.detach())


@pytest.mark.parametrize("name", GATES)
def test_saturated_gates_stay_finite(name):
    """Prevents a φ of NaN for good, where a gate has gone to an end of its range."""
    for sign in (1.0, -1.0):
        g = (sign * torch.tensor([[200.0, -200.0, 150.0]])[:, : GATES[name]().width(2)]).requires_grad_()
        gate = GATES[name]()
        weights = masked(gate.without_invalid(gate(g), V), V)
        of_entropy = gate.entropy_slope(weights.detach())
        (slope,) = torch.autograd.grad(weights, g, of_entropy)
        assert bool(of_entropy.isfinite().all()) and bool(slope.isfinite().all())


V = torch.tensor([[False, True]])


@pytest.mark.parametrize("name", GATES)
def test_bound(name):
    """Prevents a bound that does not hold, one that bends small outputs, and one that is on where none was asked
    for.
    """
    g = torch.tensor([[1e-3, -1e-3, 2e-3], [50.0, -50.0, 3.0]], dtype=torch.float64)[:, : GATES[name]().width(2)]
    free, tied = GATES[name](), GATES[name](1.5)
    torch.testing.assert_close(tied(g), free(1.5 * torch.tanh(g / 1.5)))
    torch.testing.assert_close(tied(g)[0], free(g)[0], rtol=0, atol=1e-8)
    if name == "softmax":
        assert float(tied(g)[1, 0]) == pytest.approx(expit(3.0)) and float(free(g)[1, 0]) == 1.0
    assert repr(tied) == f"{name}(1.5)" and repr(free) == name


def optimum(name, u, tau):
    """The weights that maximise Σ u·w + τ·H, in closed form."""
    k = len(u)
    if name == "softmax":
        return softmax(u / tau)
    if name == "sigmoid":
        return 2 / k * expit(2 / k * u / tau)
    return softmax(np.append(u * (k + 1) / k, 0.0) / tau)[:-1] * (k + 1) / k


class Constant(nn.Module):
    width = 1

    def forward(self, step):
        return step.losses.new_ones(len(step.losses), 1).detach()


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("name", GATES)
def test_entropy_optimum_of_each_gate(name, k):
    """Prevents a τ that means something else under another gate, and an own loss of the wrong sign or scale."""
    step = make_step(k, history=None)
    method = RWKD(Constant(), TERMS[:k], hidden=2, lr=0.1, entropy=0.7, evidence=0.0, gate=GATES[name]()).double()
    optimizer = method.own_optimizer()
    for _ in range(150):
        optimizer.zero_grad()
        method.own_loss(step).backward()
        optimizer.step()
    expected = optimum(name, normal(step.influence).mean(0).numpy(), 0.7)
    assert np.abs(expected - 1 / k).max() > 0.02
    np.testing.assert_allclose(method(step)[0].detach().numpy(), expected, atol=2e-3)


def objective(name, method, step):
    """−mean Σ û·w − ½·H by hand, for K = 2."""
    w = masked(method(step), step.valid).detach().numpy()
    if name == "softmax":
        h = entropy(w, axis=1)
    elif name == "sigmoid":
        h = entropy(np.stack([w, 1 - w]), axis=0).sum(1)  # K = 2: w = σ
    else:
        h = entropy(np.column_stack([w * 2 / 3, 1 - (w * 2 / 3).sum(1)]), axis=1)
    return float((-(normal(step.influence).numpy() * w).sum(1) - 0.5 * h).mean())


@pytest.mark.parametrize("name", GATES)
def test_row_without_label(name):
    """Prevents weight on a label that is not there, one that moves between independent terms, and a rejection that is
    undone.
    """
    step, method = make_step(), rwkd(gate=GATES[name](), entropy=0.5)
    before = method(step).detach()
    step.valid[1, 0] = False
    after = masked(method(step), step.valid)
    expected = {"softmax": 1.0, "sigmoid": before[1, 1], "reject": before[1].sum()}[name]
    assert after[1].tolist() == pytest.approx([0.0, float(expected)])
    torch.testing.assert_close(after[[0, 2, 3]].detach(), before[[0, 2, 3]])
    if name != "softmax":
        assert abs(float(before[1].sum()) - 1) > 0.05 and abs(float(before[1, 1]) - 1) > 0.05

    value = objective(name, method, step)
    by_bias = method.network[2].bias
    (found,) = torch.autograd.grad(method.own_loss(step), by_bias)
    with torch.no_grad():
        for k in range(len(by_bias)):
            by_bias[k] += 1e-6
            assert float(found[k]) == pytest.approx((objective(name, method, step) - value) / 1e-6, abs=1e-5)
            by_bias[k] -= 1e-6


@pytest.mark.parametrize("name", GATES)
def test_evidence_through_each_gate(name):
    """Prevents evidence on the logit of no term, or none on another gate's."""
    step, gate = make_step(influence=U, history=None), GATES[name]()
    method = RWKD(ClassificationFeatures(), evidence=2.0, gate=gate).double()  # the network still says 0
    logits = torch.zeros(4, gate.width(2), dtype=torch.float64)
    logits[:, :2] = 2 * normal(U)
    torch.testing.assert_close(method(step).detach(), gate(logits))


# Smoothing


def test_smoothing_by_hand():
    """Prevents smoothing towards the weights of the start, of another sample or of nothing, and one of another size
    than s.
    """
    step, s = make_step(), 0.7
    plain, smooth = rwkd(evidence=0.0)(step).detach(), rwkd(evidence=0.0, smoothing=s)
    assert torch.equal(rwkd(evidence=0.0, smoothing=0.0)(step).detach(), plain)
    expected = plain.clone()
    expected[2:] = (1 - s) * plain[2:] + s * step.history.weights[2:]  # rows 0 and 1 have had no meta step
    torch.testing.assert_close(smooth(step).detach(), expected)
    assert smooth(step).sum(1).tolist() == pytest.approx([1.0] * 4)
    step.history = None
    assert torch.equal(smooth(step).detach(), plain)


def test_smoothing_slows_phi():
    """Prevents a gradient through what the sample had, or one of full size through what it gets now."""
    step = make_step()
    plain, smooth = rwkd(entropy=0.0), rwkd(entropy=0.0, smoothing=0.7)
    parameters = list(plain.parameters())
    for row, share in ((1, 1.0), (3, 0.3)):
        a = torch.autograd.grad(plain(step)[row, 0], parameters)
        b = torch.autograd.grad(smooth(step)[row, 0], list(smooth.parameters()))
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(y, share * x)
    step.history.weights.requires_grad_()
    assert torch.autograd.grad(smooth.own_loss(step), list(smooth.parameters()))[0].isfinite().all()


def test_smoothing_keeps_the_optimum():
    """Prevents an entropy of the unsmoothed weights, which would make τ mean τ/(1 − s)."""
    step = make_step(history=None)
    method = RWKD(Constant(), hidden=2, lr=0.1, entropy=0.7, evidence=0.0, smoothing=0.5).double()
    optimizer, weights = method.own_optimizer(), torch.full((4, 2), 0.5, dtype=torch.float64)
    for _ in range(200):
        step.history = History(torch.ones(4, 1), torch.zeros(4, 2), weights)
        optimizer.zero_grad()
        method.own_loss(step).backward()
        optimizer.step()
        weights = method(step).detach()
    np.testing.assert_allclose(
        weights[0].numpy(), optimum("softmax", normal(step.influence).mean(0).numpy(), 0.7), atol=5e-3
    )


@pytest.mark.parametrize("name", GATES)
def test_smoothing_of_a_row_without_label(name):
    """Prevents weight that comes back to a missing label through the last visit, or a total that drifts."""
    step = make_step()
    step.valid[3, 0] = False
    gate = GATES[name]()
    now = masked(rwkd(gate=gate)(step), step.valid).detach()
    step.history.weights[3] = torch.tensor([0.0, 0.4])
    found = masked(rwkd(gate=gate, smoothing=0.5)(step), step.valid).detach()
    assert found[3].tolist() == pytest.approx([0.0, 0.5 * float(now[3, 1]) + 0.2])


# Features


def all_features(k=2):
    return Together([ClassificationFeatures(), EarlierInfluence(TERMS[:k]), EarlierWeights(TERMS[:k]), Visits()])


@pytest.mark.parametrize("k", [2, 3])
def test_features_of_the_past(k):
    """Prevents columns that are something else than their name, or of another order or width than they say."""
    step, features = make_step(k), all_features(k)
    found = features(step)
    past = step.history
    assert features.width == found.shape[1] == 8 + 2 * k + 1
    assert torch.equal(found[:, :8], ClassificationFeatures()(step)) and not found.requires_grad
    assert torch.equal(found[:, 8 : 8 + k], past.influence) and torch.equal(found[:, 8 + k : 8 + 2 * k], past.weights)
    np.testing.assert_allclose(found[:, -1].numpy(), np.log1p([0, 0, 1, 3]))
    step.history = None
    assert not features(step)[:, 8:].any() and torch.equal(features(step)[:, :8], found[:, :8])


def test_features_do_not_read_this_steps_influence():
    """Prevents a network that reads the answer of its own loss, and other weights before the meta step than after
    it.
    """
    step, features = make_step(), all_features()
    found = features(step)
    for influence in (None, 100 * step.influence):
        step.influence = influence
        assert torch.equal(features(step), found)


class Mine(nn.Module):
    """Somebody's features: the two losses, cut."""

    width = 2

    @torch.no_grad()
    def forward(self, step):
        return step.losses.clamp(0, 1)


class Configurable(Mine):
    def __init__(self, regression, temperature):
        super().__init__()
        self.options = (regression, temperature)


def test_own_features():
    """Prevents a class of one's own that is not read."""
    step, method = make_step(), rwkd(features=Mine(), evidence=0.0)
    network = method.network
    assert network[0].in_features == 2
    torch.testing.assert_close(method(step), network(step.losses.detach().clamp(0, 1)).softmax(1))
    whole = Together([Mine(), Visits()])
    assert whole.width == 3 and torch.equal(whole(step)[:, :2], step.losses.detach().clamp(0, 1))


def made(width=2, forward=lambda step: step.losses.detach()):
    """A class Wrong with these."""
    members = {"forward": lambda self, step: forward(step)}
    return type("Wrong", (nn.Module,), members if width is None else {**members, "width": width})()


@pytest.mark.parametrize("together", [False, True], ids=["alone", "as a part"])
@pytest.mark.parametrize(
    "features,said",
    [
        (lambda: made(width=None), "width=None"),
        (lambda: made(width=0), "width=0"),
        (lambda: made(width="2"), "width='2'"),
        (lambda: made(width=True), "width=True"),
        (lambda: made(width=3), r"gave \(4, 2\).*shape \(4, 3\)"),
        (lambda: made(forward=lambda s: s.losses.detach()[:2]), r"gave \(2, 2\).*shape \(4, 2\)"),
        (lambda: made(forward=lambda s: s.losses.detach().sum(1)), r"gave \(4,\)"),
        (lambda: made(forward=lambda s: (s.losses.detach(),)), "gave tuple"),
        (lambda: made(forward=lambda s: s.losses), "gradient.*no_grad"),
        (lambda: made(forward=lambda s: s.losses.detach() * torch.tensor([[1.0]] * 3 + [[float("inf")]])), r"row 3"),
    ],
)
def test_mistakes_in_own_features(features, said, together):
    """Prevents a traceback from a matrix product, NaN weights that are blamed on the rate, and a graph into the
    student.
    """
    with pytest.raises(UserError, match=f"`features`: Wrong .*{said}") as caught:
        RWKD(Together([features(), Visits()]) if together else features())(make_step(dtype=torch.float32))
    assert "\n" not in str(caught.value)


def test_losses_that_are_not_finite_are_not_blamed_on_the_features():
    """Prevents a message about somebody's features where the student has diverged."""
    step = make_step()
    step.losses = step.losses.detach().clone()
    step.losses[2, 1] = float("nan")
    assert rwkd(features=Mine())(step).isnan().any(1).tolist() == [False, False, True, False]


def test_other_dtypes_are_taken():
    """Prevents a traceback for features that count, or that were computed in double precision."""
    for features in (
        made(forward=lambda s: s.batch["labels"][:, None].expand(-1, 2)),
        made(forward=lambda s: s.losses.detach()),
    ):
        assert RWKD(features)(make_step(dtype=torch.float64)).shape == (4, 2)


# As they are chosen


def configured(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return weighting_of(compose("config", list(overrides)))


@pytest.mark.parametrize("task,standard", [("tweets", 8), ("stsb", 4)])
@pytest.mark.parametrize("name,more", [("standard", 0), ("influence", 2), ("history", 5)])
def test_features_by_name(name, more, task, standard):
    """Prevents an option that gives other features than its name, or the wrong ones for a regression."""
    method = configured(f"task={task}", f"meta_features={name}")
    assert method.network[0].in_features == standard + more


def test_own_features_by_name():
    """Prevents a class of one's own that cannot be reached from the command line."""
    here = "tests.weighting.test_weighting_options"
    own = configured("meta_features=own", f"meta_features._target_={here}.Mine").features
    assert type(own).__name__ == "Mine" and own.width == 2
    own = configured(
        f"meta_features._target_={here}.Configurable", "temperature=3"
    ).features  # gets what the standard ones get
    assert type(own).__name__ == "Configurable" and own.options == (False, 3)


@pytest.mark.parametrize(
    "overrides,said",
    [
        (["meta_features=own"], "_target_=my_package.MyFeatures"),
        (["meta_features=own", "meta_features._target_=tests.weighting.nowhere.Mine"], "nowhere"),
        (
            ["meta_features._target_=tests.weighting.test_weighting_options.Mine"],
            "unexpected keyword argument 'regression'",
        ),
        (["weighting.smoothing=1"], "weighting.smoothing is 1"),
        (["weighting.gate.bound=0"], "weighting.gate.bound is 0"),
        (["weighting=permuted", "meta_features=history"], "meta_features=history: on record are"),
        (["weighting=permuted", "weighting.inner.smoothing=0.5"], "weighting.inner.smoothing=0.5"),
    ],
)
def test_choices_that_cannot_be(overrides, said):
    """Prevents a traceback, and a control that learns otherwise than what it is a control of."""
    with pytest.raises(UserError) as caught:
        configured(*overrides)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", GATES)
def test_gates_by_name(name):
    """Prevents a gate that cannot be chosen by its name alone."""
    target = f"_target_=rwkd_lightning.weighting.gates.{GATES[name].__name__}"
    assert repr(configured(f"weighting.gate.{target}", "weighting.gate.bound=2").gate) == f"{name}(2)"
    assert repr(configured("weighting=permuted", f"weighting.inner.gate.{target}").inner.gate) == name


@pytest.mark.parametrize(
    "build,said",
    [
        (lambda: RWKD(Mine(), smoothing=-0.1), "`smoothing` is -0.1"),
        (lambda: RWKD(Mine(), smoothing=float("nan")), "is nan"),
        (lambda: Sigmoid(-1.0), "`bound` is -1.0"),
        (lambda: Reject(float("inf")), "`bound` is inf"),
        (lambda: Together([]), "`parts` is empty"),
        (lambda: Permuted(RWKD(all_features())), "EarlierWeights"),
    ],
)
def test_bad_values_are_named(build, said):
    """Prevents a run that trains on a typo."""
    with pytest.raises(UserError, match=said):
        build()


# A term that is there already


def test_features_take_the_kd_that_is_there():
    """Prevents features that compute what a term has computed, and ones that take the loss of another temperature,
    output or class for theirs.
    """
    step, same = make_step(), DistillationKL(2.0, name="mine")
    assert step.loss_of(same).tolist() == same(step.outputs, step.batch).tolist()  # of a name alone nothing is known
    step.terms = [CrossEntropy(), DistillationKL(2.0)]
    torch.testing.assert_close(step.loss_of(same), step.losses[:, 1].detach(), rtol=0, atol=0)
    assert not step.loss_of(same).requires_grad
    step.losses = torch.full_like(step.losses, 7.0)
    assert step.loss_of(same).tolist() == [7.0] * 4
    step.batch["teacher_other"] = step.batch["teacher_logits"]
    for other in (DistillationKL(3.0), DistillationKL(2.0, teacher_output="other"), SoftCrossEntropy(2.0)):
        assert step.loss_of(other).tolist() == other(step.outputs, step.batch).tolist()
