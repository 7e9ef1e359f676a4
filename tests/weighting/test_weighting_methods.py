from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from scipy.stats import entropy
from torch import nn

from rwkd_lightning.terms import CrossEntropy, DistillationKL, LogitMSE, SquaredError, stack
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting import (
    RWKD,
    AnnealingKD,
    ClassificationFeatures,
    DynamicWeightAverage,
    FixedAlpha,
    GivenWeights,
    GlobalAlpha,
    GradNorm,
    History,
    LabelsOnly,
    LearningToReweight,
    MetaWeightNet,
    Oracle,
    Permuted,
    PerturbationRWKD,
    RegressionFeatures,
    Step,
    TeacherAnnealing,
    TeacherConfidence,
    TrilateralGeometry,
    Uncertainty,
    WeightedSoftLabels,
    masked,
)
from rwkd_lightning.weighting.features.standard import standard_features

THIRD = "logit_mse"  # any third term serves


def make_step(rows=4, names=("ce", "kd"), classes=3, seed=0, **changes):
    """A step on random logits; the losses carry the student's graph."""
    g = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rows, classes, generator=g, dtype=torch.float64)
    logits.requires_grad_()
    batch = {
        "labels": torch.arange(rows) % classes,
        "index": torch.arange(rows),
        "teacher_logits": 2 * torch.randn(rows, classes, generator=g, dtype=torch.float64),
        "label_flipped": torch.arange(rows) % 2 == 1,
        "teacher_corrupted": torch.arange(rows) % 4 >= 2,
    }
    terms = [CrossEntropy(), DistillationKL(2.0), LogitMSE()][: len(names)]
    losses = stack(terms, {"logits": logits}, batch)
    u = torch.randn(rows, len(names), generator=g, dtype=torch.float64)
    fields = {
        "losses": losses,
        "valid": torch.ones(losses.shape, dtype=torch.bool),
        "terms": names,
        "outputs": {"logits": logits.detach()},
        "batch": batch,
        "influence": u,
        "progress": 0.25,
        "shared_parameters": (logits,),
        **changes,
    }
    step = Step(**fields)
    step.student = logits
    return step


def rearranged(step, order):
    """The same rows in another order."""
    take = lambda d: {k: v[order] for k, v in d.items()}  # noqa: E731
    return Step(
        step.losses[order],
        step.valid[order],
        step.terms,
        take(step.outputs),
        take(step.batch),
        progress=step.progress,
        influence=step.influence[order],
    )


def rwkd(names=("ce", "kd"), seed=None, evidence=0.0, **options):
    method = RWKD(ClassificationFeatures(), names, evidence=evidence, **options).double()
    if seed is not None:  # away from the uniform start
        g = torch.Generator().manual_seed(seed)
        for p in method.parameters():
            p.data = torch.randn(p.shape, generator=g, dtype=p.dtype)
    return method


def tilted(names=("ce", "kd")):
    method = GlobalAlpha(names)
    method.logits.data = torch.log(torch.tensor([3.0, 1.0, 4.0][: len(names)]))
    return method


def uncertain(names=("ce", "kd")):
    """Variances 1/4, 1 and 4."""
    method = Uncertainty(names)
    method.log_variances.data = torch.log(torch.tensor([0.25, 1.0, 4.0][: len(names)]))
    return method


def averaged(names=("ce", "kd")):
    """Rates 1/2, 1 and 3/2 in the last window."""
    method = DynamicWeightAverage(names)
    method.means.copy_(torch.tensor([[2.0, 1.0, 1.0], [1.0, 1.0, 1.5]])[:, : len(names)])
    return method


def balanced(names=("ce", "kd")):
    method = GradNorm(names)
    method.logits.data = torch.log(torch.tensor([3.0, 1.0, 4.0][: len(names)]))
    return method


def tgeo(seed=None):
    g = torch.Generator().manual_seed(9)
    method = TrilateralGeometry()
    method.prepare({"labels": torch.arange(12) % 3, "teacher_logits": torch.randn(12, 3, generator=g)})
    if seed is not None:
        torch.nn.init.normal_(method.network[-1].weight, generator=g)
    return method.double()


def annealing(stage_one=0.75):
    """Annealing-KD, which takes the second term for the annealed one."""
    method = AnnealingKD(stage_one)
    forward = method.forward
    method.forward = lambda step: forward(dataclasses.replace(step, terms=("ce", "annealed_mse", *step.terms[2:])))
    return method


def reweighted(step):
    """L2RW's weight of each sample."""
    fixed = fixed_shares(step)
    u = (step.influence * fixed).sum(1).clamp_min(0)
    return u / u.mean() * fixed.sum(1)


def fixed_shares(step, alpha=0.5, beta=1.0):
    """(1 − α, α, β, ...) for every sample."""
    return torch.tensor([[1 - alpha, alpha, beta, beta][: len(step.terms)]] * len(step.losses), dtype=torch.float64)


def label_probabilities(step):
    """The student's and the teacher's probability of the label, ``(B,)`` each."""
    at = np.arange(len(step.losses)), step.batch["labels"].numpy()
    return softmax(step.outputs["logits"].numpy(), 1)[at], softmax(step.batch["teacher_logits"].numpy(), 1)[at]


def weighted_soft_labels(step, alpha=2.5):
    p, t = label_probabilities(step)
    return np.stack([np.ones_like(p), alpha * (1 - np.exp(-np.log(p) / (np.log(t) - 1e-7)))], 1)


def teacher_confidence(step):
    """For three classes."""
    _, t = label_probabilities(step)
    alpha = np.maximum(0, t - (1 - t) / 2)
    return np.stack([1 - alpha, alpha], 1)


METHODS = {
    "ce": lambda *_: LabelsOnly(),
    "kd": lambda *_: FixedAlpha(0.3),
    "rwkd": rwkd,
    "trained rwkd": lambda names=("ce", "kd"): rwkd(names, seed=1),
    "rwkd with evidence": lambda names=("ce", "kd"): rwkd(names, seed=1, evidence=1.0),
    "rwkd_online": lambda *_: PerturbationRWKD(),
    "global": tilted,
    "oracle": lambda *_: Oracle(),
    "annealed": lambda *_: TeacherAnnealing(),
    "wls": lambda *_: WeightedSoftLabels(2.5),
    "uncertainty": lambda names=("ce", "kd"): uncertain(names),
    "dwa": lambda names=("ce", "kd"): averaged(names),
    "gradnorm": lambda names=("ce", "kd"): balanced(names),
    "teacher_confidence": lambda *_: TeacherConfidence(),
    "mwn": lambda *_: MetaWeightNet().double(),
    "l2rw": lambda *_: LearningToReweight(),
    "tgeo": lambda *_: tgeo(),
    "trained tgeo": lambda *_: tgeo(seed=1),
    "annealing_kd": lambda *_: annealing(),
    "annealing_kd, stage 2": lambda *_: annealing(0.2),
}
# of the methods whose weights are not convex, what they sum to
TOTALS = {
    "oracle": lambda step: ~(step.batch["label_flipped"] & step.batch["teacher_corrupted"]),
    "wls": lambda step: weighted_soft_labels(step).sum(1),
    "uncertainty": lambda step: [[2, 2.5, 2.625][len(step.terms) - 1]] * len(step.losses),
    "dwa": lambda step: [len(step.terms)] * len(step.losses),
    "gradnorm": lambda step: [len(step.terms)] * len(step.losses),
    "kd": lambda step: fixed_shares(step).sum(1),
    "mwn": lambda step: 0.5 * fixed_shares(step).sum(1),
    "l2rw": reweighted,
}
U = torch.tensor([[1.0, 3.0], [-1.0, -2.0], [0.5, -4.0], [-2.0, 1e-3]], dtype=torch.float64)

GOLDEN = {
    "ce": (lambda: LabelsOnly(), [[1, 0], [1, 0], [1, 0], [1, 0]]),
    "kd 0.5": (lambda: FixedAlpha(), [[0.5, 0.5]] * 4),
    "kd 0.9": (lambda: FixedAlpha(0.9), [[0.1, 0.9]] * 4),
    "rwkd starts uniform": (rwkd, [[0.5, 0.5]] * 4),
    "rwkd_online": (lambda: PerturbationRWKD(), [[0.25, 0.75], [0.5, 0.5], [1, 0], [0, 1]]),
    "rwkd_online, a floor that matters": (lambda: PerturbationRWKD(1.0), [[0.25, 0.75], *[[0.5, 0.5]] * 3]),
    "global starts uniform": (lambda: GlobalAlpha(), [[0.5, 0.5]] * 4),
    "global": (tilted, [[0.75, 0.25]] * 4),
    "permuted": (lambda: Permuted(tilted()), [[0.75, 0.25]] * 4),
    "given": (lambda: GivenWeights(FixedAlpha(0.3), "index"), [[0, 0], [0.7, 0.3], [1.4, 0.6], [2.1, 0.9]]),
    "oracle": (lambda: Oracle(), [[0.5, 0.5], [0, 1], [1, 0], [0, 0]]),
    "annealed after a quarter": (lambda: TeacherAnnealing(), [[0.25, 0.75]] * 4),
    "wls": (lambda: WeightedSoftLabels(), weighted_soft_labels),
    "wls, alpha 1": (lambda: WeightedSoftLabels(1.0), lambda step: weighted_soft_labels(step, 1.0)),
    "uncertainty starts at exp(0.5)/2": (lambda: Uncertainty(), [[0.8243606, 0.8243606]] * 4),
    "uncertainty": (uncertain, [[2.0, 0.5]] * 4),
    "dwa starts at one": (lambda: DynamicWeightAverage(), [[1, 1]] * 4),
    "dwa": (averaged, [[0.875647, 1.124353]] * 4),  # 2·softmax(1/4, 1/2)
    "gradnorm starts at one": (lambda: GradNorm(), [[1, 1]] * 4),
    "gradnorm": (balanced, [[1.5, 0.5]] * 4),
    "teacher_confidence": (lambda: TeacherConfidence(), teacher_confidence),
    "mwn starts at half of alpha's": (lambda: MetaWeightNet(0.4).double(), [[0.3, 0.2]] * 4),
    "l2rw": (
        lambda: LearningToReweight(),
        [[2, 2], [0, 0], [0, 0], [0, 0]],
    ),  # u of the samples: 2, −1.5, −1.75, −0.9995
    "l2rw, alpha 0": (lambda: LearningToReweight(0.0), [[8 / 3, 0], [0, 0], [4 / 3, 0], [0, 0]]),  # 1, −1, 0.5, −2
    "tgeo starts uniform": (tgeo, [[0.5, 0.5]] * 4),
    "annealing_kd, stage 1": (annealing, [[0, 1]] * 4),
    "annealing_kd, stage 2": (lambda: annealing(0.2), [[1, 0]] * 4),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name):
    """Prevents a method that weights the wrong term, or by another formula than its name says."""
    build, expected = GOLDEN[name]
    step = make_step(influence=U)
    found = build()(step).detach().double()
    expected = torch.as_tensor(expected(step) if callable(expected) else expected, dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=2e-5)


@pytest.mark.parametrize(
    ("names", "expected"),
    [(("kd", "ce"), [0.3, 0.7]), (("squared_error", THIRD), [0.7, 0.3]), (("hidden", "kd", "ce"), [3.0, 0.3, 0.7])],
)
def test_terms_are_found_by_name(names, expected):
    """Prevents α on the label where the terms come in another order, and a further term without weight."""
    assert FixedAlpha(0.3, 3.0)(make_step(names=names))[0].tolist() == pytest.approx(expected)


def test_missing_term_is_named():
    """Prevents weight on a term of another role."""
    with pytest.raises(UserError, match="teacher"):
        FixedAlpha()(make_step(names=("ce", "uncertainty")))


@pytest.mark.parametrize("name", METHODS)
def test_rows_keep_their_weights_in_another_order(name):
    """Prevents weights that depend on a sample's place in the batch."""
    step, method, order = make_step(rows=8), METHODS[name](), torch.tensor([5, 2, 7, 0, 1, 6, 3, 4])
    torch.testing.assert_close(method(rearranged(step, order)), method(step)[order])


@pytest.mark.parametrize("names", [("ce", "kd"), ("ce", "kd", THIRD)], ids=["K=2", "K=3"])
@pytest.mark.parametrize("name", METHODS)
def test_weights_sum_to_one(name, names):
    """Prevents a change of the effective learning rate that nobody chose: the weights are convex, or in ``TOTALS``."""
    step = make_step(rows=8, names=names)
    weights = METHODS[name](names)(step).detach()
    assert weights.shape == step.losses.shape and bool((weights >= 0).all())
    expected = TOTALS[name](step) if name in TOTALS else [1.0] * 8
    assert weights.sum(1).tolist() == pytest.approx([float(x) for x in expected], rel=1e-6)


@pytest.mark.parametrize("name", [*METHODS, "permuted"])
def test_no_gradient_into_the_student(name):
    """Prevents a meta-learner that trains the student through the features or the losses it reads."""
    method = METHODS[name]() if name in METHODS else Permuted(rwkd(seed=1))
    step = make_step()
    assert not step.influence.requires_grad
    for value in (method(step).sum(), method.own_loss(step)):
        if value is not None and value.requires_grad:
            assert torch.autograd.grad(value, step.student, allow_unused=True)[0] is None


@pytest.mark.parametrize("scale", [1e-4, 1e5])
def test_scale_of_u_does_not_matter(scale):
    """Prevents a, 1/n or the size of the meta loss from changing weights or φ's gradient."""
    step, scaled = make_step(), make_step()
    scaled.influence = step.influence * scale
    online = PerturbationRWKD()
    torch.testing.assert_close(online(scaled), online(step), rtol=1e-3, atol=1e-3)
    for method in (rwkd(seed=1), tilted()):
        parameters = [p for p in method.parameters() if p.requires_grad]
        a, b = (torch.autograd.grad(method.own_loss(s), parameters) for s in (step, scaled))
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(x, y)


@pytest.mark.parametrize("tau", [0.0, 0.5])
def test_own_loss_by_hand(tau):
    """Prevents a surrogate of the wrong sign, an unnormalised u and an entropy term that narrows the weights."""
    step, method = make_step(influence=U), GlobalAlpha(entropy=tau)
    method.logits.data = torch.log(torch.tensor([3.0, 1.0]))
    w, u = np.array([0.75, 0.25]), U.numpy() / np.abs(U.numpy()).mean()
    expected = -(u * w).sum(1).mean() - tau * entropy(w)
    assert float(method.own_loss(step).detach()) == pytest.approx(expected, rel=1e-5)
    assert method.own_loss(Step(step.losses, step.valid, step.terms, step.outputs, step.batch)) is None


@pytest.mark.parametrize("names", [("ce", "kd"), ("ce", "kd", THIRD)], ids=["K=2", "K=3"])
def test_entropy_optimum(names):
    """Prevents a τ that means something else: for constant features φ converges to w = softmax(E[u]/τ)."""
    step = make_step(rows=16, names=names)
    for key in ("labels", "teacher_logits"):  # all rows alike
        step.batch[key] = step.batch[key][:1].expand(16, *step.batch[key].shape[1:])
    step.outputs = {"logits": step.outputs["logits"][:1].expand(16, -1)}
    u = (step.influence / step.influence.abs().mean()).mean(0)
    expected = (u / 0.5).softmax(0)
    assert float((expected - 1 / len(names)).abs().max()) > 0.02
    for method in (rwkd(names, lr=3e-2, entropy=0.5), GlobalAlpha(names, lr=3e-2, entropy=0.5).double()):
        optimizer = method.own_optimizer()
        for _ in range(200):
            optimizer.zero_grad()
            method.own_loss(step).backward()
            optimizer.step()
        torch.testing.assert_close(method(step)[0].detach(), expected, atol=1e-3, rtol=0)


def test_plain_form_takes_the_larger_u():
    """Prevents an entropy term that stays on at τ = 0: the optimum is then a weight of 1 on the larger mean u."""
    step, method = make_step(influence=U), GlobalAlpha(lr=0.1, entropy=0.0)
    optimizer = method.own_optimizer()
    for _ in range(200):
        optimizer.zero_grad()
        method.own_loss(step).backward()
        optimizer.step()
    assert float(method(step)[0, int(U.mean(0).argmax())].detach()) > 0.99


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_influence_that_is_not_finite_does_not_pass_for_none(bad):
    """Prevents one overflowing row that counts as 0, so that nobody hears of it; the training loop stops at it."""
    step = make_step(influence=U.clone())
    step.influence[1, 0] = bad
    assert not bool(rwkd(seed=1).own_loss(step).isfinite())
    assert not bool(PerturbationRWKD()(step)[1].isfinite().all())


def test_permuted_shuffles_and_learns_as_the_inner_method():
    """Prevents a control that deals no other weights, deals others than the inner method's, learns differently, or
    changes the dropout masks.
    """
    inner = rwkd(seed=1)
    method, step = Permuted(inner), make_step(rows=32)
    before = torch.get_rng_state()
    straight, dealt = inner(step).detach(), method(step).detach()
    assert torch.equal(method(step), dealt)  # a lookahead asks too
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.allclose(straight, dealt)
    torch.testing.assert_close(straight.sort(0).values, dealt.sort(0).values)
    torch.testing.assert_close(method.own_loss(step), inner.own_loss(step))
    assert method.needs_influence and method.has_memory and not Permuted(PerturbationRWKD()).has_memory
    held = {id(p) for g in method.own_optimizer().param_groups for p in g["params"]}
    assert held == {id(p) for p in inner.parameters() if p.requires_grad}


@pytest.mark.parametrize("columns", [{}, {"label_flipped": torch.zeros(3, dtype=torch.bool)}])
def test_oracle_needs_known_truth(columns):
    """Prevents an oracle that knows nothing from being reported as the ceiling."""
    with pytest.raises(UserError, match="label_flipped"):
        Oracle().prepare(columns)
    Oracle().prepare({"teacher_corrupted": torch.tensor([False, True])})


def test_masked_by_hand():
    """Prevents weight on a term without a value, a change of a row's total, and a weight for rows that had none."""
    w = torch.tensor([[0.2, 0.8], [0.9, 0.1], [1.0, 0.0], [0.0, 0.0]])
    valid = torch.tensor([[True, True], [False, True], [False, True], [True, True]])
    assert torch.equal(masked(w, valid), torch.tensor([[0.2, 0.8], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]))
    three = masked(torch.tensor([[0.5, 0.1, 0.4]]), torch.tensor([[False, True, True]]))
    torch.testing.assert_close(three, torch.tensor([[0.0, 0.2, 0.8]]))


@pytest.mark.parametrize("logit", [0.0, 40.0, 60.0, 200.0])
def test_masked_gradient_is_finite(logit):
    """Prevents 0/0 in φ's gradient, and a lost weight of a row without label, once softmax has saturated."""
    g = torch.tensor([[logit, 0.0]], requires_grad=True)
    weights = masked(g.softmax(1), torch.tensor([[False, True]]))
    weights[0, 1].backward()
    assert bool(g.grad.isfinite().all())
    assert float(weights.detach()[0, 1]) == pytest.approx(1.0 if logit < 69 else 0.0)


def test_hidden_label_leaves_phi_finite():
    """Prevents a φ of NaN for good: the entropy's slope at the weight 0 of a masked term is infinite."""
    step = make_step()
    step.valid[1, 0] = False
    for method in (rwkd(seed=1, entropy=0.5), GlobalAlpha(entropy=0.5)):
        method.own_loss(step).backward()
        assert all(bool(p.grad.isfinite().all()) for p in method.parameters() if p.grad is not None)


def test_masked_passes_nan_on():
    """Prevents NaN weights from turning into weights of 0, with which the student silently stops learning."""
    assert bool(masked(torch.full((1, 2), float("nan")), torch.ones(1, 2) > 0).isnan().all())


@pytest.mark.parametrize("name", ["kd", "rwkd", "trained rwkd", "rwkd_online", "global", "trained tgeo"])
def test_hidden_label_leaves_all_weight_to_kd(name):
    """Prevents a row without a label from training at part of the rate."""
    step = make_step()
    step.batch["labels"][1] = -1
    step.valid[1, 0] = False
    step.influence[1] = torch.tensor([0.0, -1.0])
    assert masked(METHODS[name]()(step), step.valid)[1].tolist() == pytest.approx([0.0, 1.0])


@pytest.mark.parametrize("classes", [2, 5])
def test_classification_features(classes):
    """Prevents a feature that is something else than its name, or a width that changes with the number of classes."""
    step = make_step(rows=6, classes=classes)
    step.batch["labels"][5] = -1
    found = ClassificationFeatures(2.0)(step).numpy()
    s, t, y = (x.numpy() for x in (step.outputs["logits"], step.batch["teacher_logits"], step.batch["labels"]))
    p, q, at = softmax(s, 1), softmax(t, 1), (np.arange(6), y)
    kd = 4 * rel_entr(softmax(t / 2, 1), softmax(s / 2, 1)).sum(1)
    ce_s, ce_t = -np.log(p[at]), -np.log(q[at])
    expected = np.stack(
        [
            np.log1p(ce_s),
            np.log1p(kd),
            np.log1p(ce_t),
            p[at],
            q[at],
            entropy(p, axis=1),
            entropy(q, axis=1),
            (p * q).sum(1),
        ],
        1,
    )
    expected[5, [0, 2, 3, 4]] = 0
    assert found.shape == (6, 8) == (6, ClassificationFeatures.width)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_regression_features():
    """Prevents a (B, B) matrix from broadcasting, and a sign of the wrong product."""
    s, t, y = np.array([1.0, -2.0, 0.5]), np.array([0.0, 1.0, 0.5]), np.array([3.0, -1.0, 0.5])
    step = make_step(rows=3)
    step.outputs = {"logits": torch.tensor(s)[:, None]}
    step.batch = {"labels": torch.tensor(y), "teacher_logits": torch.tensor(t)[:, None], "index": torch.arange(3)}
    expected = np.stack([np.log1p((s - y) ** 2), np.log1p((s - t) ** 2), np.log1p((t - y) ** 2), [1.0, -1.0, 0.0]], 1)
    expected[:, 3] = np.sign((s - y) * (t - y))
    features = standard_features(regression=True)
    assert isinstance(features, RegressionFeatures) and features.width == 4
    np.testing.assert_allclose(features(step), expected)


def test_rwkd_on_regression():
    """Prevents a network of the wrong width for a regression."""
    method = RWKD(standard_features(True), ("squared_error", "logit_mse"))
    batch = {"labels": torch.randn(5), "teacher_logits": torch.randn(5, 1), "index": torch.arange(5)}
    outputs = {"logits": torch.randn(5, 1)}
    losses = stack([SquaredError(), LogitMSE()], outputs, batch)
    step = Step(losses, losses >= 0, ("squared_error", "logit_mse"), outputs, batch)
    assert torch.equal(method(step), torch.full((5, 2), 0.5))


def test_evidence_by_hand():
    """Prevents evidence of the wrong sign or size: softmax(e·mean of normalised u over this and the earlier visits)."""
    step, method = make_step(influence=U), rwkd(evidence=2.0)
    u = U / U.abs().mean()
    torch.testing.assert_close(method(step).detach(), (2 * u).softmax(1))
    earlier = torch.tensor([[0.0, 0.0], [0.5, -0.5], [0.5, -0.5], [0.0, 0.0]], dtype=torch.float64)
    visits = torch.tensor([[0.0], [3.0], [1.0], [0.0]], dtype=torch.float64)
    step.history = History(visits.float(), (earlier * visits).float(), torch.zeros(4, 2))
    torch.testing.assert_close(method(step).detach(), (2 * (earlier * visits + u) / (visits + 1)).softmax(1))
    step.influence = None
    torch.testing.assert_close(method(step).detach(), (2 * earlier).softmax(1))


def test_zero_start_still_learns():
    """Prevents a network whose last layer starts at zero and never leaves it."""
    method, step = rwkd(lr=1e-2), make_step(rows=16)
    before = copy.deepcopy(method.state_dict())
    optimizer = method.own_optimizer()
    for _ in range(3):
        optimizer.zero_grad()
        method.own_loss(step).backward()
        optimizer.step()
    assert all(not torch.equal(v, before[k]) for k, v in method.state_dict().items())
    assert float(method(step).std(0).sum().detach()) > 1e-4


@pytest.mark.parametrize(
    "build,value",
    [
        (lambda: FixedAlpha(1.2), "1.2"),
        (lambda: FixedAlpha(-0.1), "-0.1"),
        (lambda: WeightedSoftLabels(-0.1), "`alpha` is -0.1"),
        (lambda: WeightedSoftLabels(float("inf")), "`alpha` is inf"),
        (lambda: Uncertainty(lr=0.0), "`lr` is 0.0"),
        (lambda: DynamicWeightAverage(window=0), "`window` is 0"),
        (lambda: DynamicWeightAverage(temperature=0.0), "`temperature` is 0.0"),
        (lambda: GradNorm(lr=-1.0), "`lr` is -1.0"),
        (lambda: GradNorm(asymmetry=float("nan")), "`asymmetry` is nan"),
        (lambda: PerturbationRWKD(0.0), "0.0"),
        (lambda: GlobalAlpha(lr=0.0), "`lr` is 0.0"),
        (lambda: GlobalAlpha(entropy=-1.0), "`entropy` is -1.0"),
        (lambda: RWKD(nn.Identity(), hidden=0), "`hidden` is 0"),
        (lambda: RWKD(ClassificationFeatures(), evidence=-0.5), "`evidence` is -0.5"),
        (lambda: RWKD(ClassificationFeatures(), lr=-3.0), "`lr` is -3.0"),
        (lambda: RWKD(ClassificationFeatures(), entropy=float("nan")), "`entropy` is nan"),
        (lambda: ClassificationFeatures(-2.0), "-2.0"),
    ],
)
def test_bad_values_are_named(build, value):
    """Prevents a run that trains on a typo; the message names key and value."""
    with pytest.raises(UserError, match=value):
        build()
