"""Weightings without a meta step that change with the training or the losses, each against a reference of another
kind.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import warnings

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from rwkd_lightning.systems.text.terms import HiddenStates
from rwkd_lightning.terms import (
    AnnealedMSE,
    BernoulliKL,
    BinaryCrossEntropy,
    CrossEntropy,
    DistillationKL,
    LogitMSE,
    SoftCrossEntropy,
    SquaredError,
    stack,
)
from rwkd_lightning.training.compatibility import check_terms
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.training.optim import adamw
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting import (
    DynamicWeightAverage,
    GradNorm,
    Permuted,
    Step,
    TeacherAnnealing,
    TeacherConfidence,
    Uncertainty,
    WeightedSoftLabels,
    masked,
    means,
)
from tests.training.conftest import Rows, Student

METHODS = {
    "annealed": TeacherAnnealing,
    "wls": WeightedSoftLabels,
    "uncertainty": Uncertainty,
    "dwa": DynamicWeightAverage,
    "gradnorm": GradNorm,
    "teacher_confidence": TeacherConfidence,
}
TERMS = [CrossEntropy(), DistillationKL(2.0), LogitMSE()]
NAMES = tuple(term.name for term in TERMS)


class Net(nn.Module):
    """A body and a head, in float64."""

    def __init__(self, classes=3):
        super().__init__()
        self.body, self.head = nn.Linear(5, 6), nn.Linear(6, classes)
        self.double()

    def forward(self, batch):
        return {"logits": self.head(torch.tanh(self.body(batch["x"])))}


def net_and_step(seed=0, rows=7, k=2, classes=3, hidden=(), progress=0.0, soft=None):
    """A network and a step with its graph; ``hidden`` rows have no label."""
    torch.manual_seed(seed)
    net = Net(classes)
    batch = {
        "x": torch.randn(rows, 5, dtype=torch.float64),
        "labels": torch.arange(rows) % classes,
        "teacher_logits": 2 * torch.randn(rows, classes, dtype=torch.float64),
        "index": torch.arange(rows),
    }
    batch["labels"][list(hidden)] = -1
    terms = [CrossEntropy(), soft] if soft else TERMS[:k]
    outputs, names = net(batch), tuple(term.name for term in terms)
    valid = torch.stack([term.valid(batch) for term in terms], 1)
    step = Step(
        stack(terms, outputs, batch),
        valid,
        names,
        {"logits": outputs["logits"].detach()},
        batch,
        progress,
        shared_parameters=tuple(net.head.parameters()),
    )
    return net, step


def losses_step(losses, valid=None):
    """A step of which only the losses matter."""
    losses = torch.as_tensor(losses, dtype=torch.float64)
    return Step(
        losses, torch.ones_like(losses, dtype=torch.bool) if valid is None else valid, NAMES[: losses.shape[1]], {}, {}
    )


def mean_terms(step):
    """L_k in plain Python: over the rows where the term has a value."""
    rows = zip(step.losses.T, step.valid.T, strict=True)
    return torch.stack([torch.stack([x for x, v in zip(*pair, strict=True) if v]).mean() for pair in rows])


# Weights of rows without a label


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("annealed", [0, 1]),
        ("teacher_confidence", [0, 1]),  # shares of 1
        ("dwa", [0, 2]),
        ("gradnorm", [0, 2]),  # shares of K
        ("wls", [0, 2.5]),
        ("uncertainty", [0, np.exp(0.5) / 2]),  # no shares
    ],
)
def test_hidden_label(name, expected):
    """Prevents a row without a label that is dropped (w = 1 − exp(−0)), or that trains at more than the rate of the
    others.
    """
    _, step = net_and_step(hidden=[2], progress=0.5)
    with torch.no_grad():
        weights = METHODS[name]()(step)
    assert masked(weights, step.valid)[2].tolist() == pytest.approx(expected)
    torch.testing.assert_close(masked(weights, step.valid)[[0, 1, 3, 4, 5, 6]], weights[[0, 1, 3, 4, 5, 6]])


# annealed


@pytest.mark.parametrize("progress", [0.0, 0.25, 0.999])
def test_annealing(progress):
    """Prevents annealing the other way round: the teacher alone at first, the labels alone in the end."""
    _, step = net_and_step(k=3, progress=progress)
    assert TeacherAnnealing()(step).unique(dim=0)[0].tolist() == pytest.approx([progress, 1 - progress, 0])


def test_annealed_target():
    """Prevents a mixture of losses that is not the paper's mixture of targets: at T = 1 the gradients are the same."""
    net, step = net_and_step(progress=0.3)
    target = 0.3 * nn.functional.one_hot(step.batch["labels"], 3) + 0.7 * step.batch["teacher_logits"].softmax(1)
    logits = net(step.batch)["logits"]
    expected = torch.autograd.grad(-(target * logits.log_softmax(1)).sum(), logits)[0]
    outputs = net(step.batch)
    losses = stack([CrossEntropy(), DistillationKL(1.0)], outputs, step.batch)
    found = torch.autograd.grad((TeacherAnnealing()(step) * losses).sum(), outputs["logits"])[0]
    torch.testing.assert_close(found, expected)


# wls


@pytest.mark.parametrize("classes", [2, 5])
def test_weighted_soft_labels(classes):
    """Prevents the ratio the other way round, cross-entropies at temperature T, and a weight that the student learns
    through.
    """
    _, step = net_and_step(classes=classes, rows=10)
    weights = WeightedSoftLabels(2.5)(step)
    assert not weights.requires_grad
    for i, y in enumerate(step.batch["labels"].tolist()):
        logits = step.outputs["logits"][i].tolist(), step.batch["teacher_logits"][i].tolist()
        s, t = (np.logaddexp.reduce(x) - x[y] for x in logits)
        assert weights[i].tolist() == pytest.approx([1.0, 2.5 * (1 - np.exp(-s / (t + 1e-7)))], rel=1e-9)


def test_weighted_soft_labels_of_certain_models():
    """Prevents 0/0 for a teacher that is certain of the label: a student that is too gets no soft label, any other gets
    all.
    """
    for ce, expected in ((0.0, 0.0), (0.5, 2.5)):
        step = losses_step([[ce, 1.0]])
        step.batch = {"labels": torch.tensor([0]), "teacher_logits": torch.tensor([[400.0, -400.0]])}
        assert WeightedSoftLabels()(step)[0].tolist() == pytest.approx([1.0, expected])


def test_soft_cross_entropy_or_kd():
    """Prevents `wls` that weights another term than the soft labels: with KD in their place the gradient is the
    same.
    """
    grads = []
    for soft in (SoftCrossEntropy(2.0), DistillationKL(2.0)):
        net, step = net_and_step(soft=soft, hidden=[1])
        loss = (masked(WeightedSoftLabels()(step), step.valid) * step.losses).sum(1).mean()
        grads.append(torch.autograd.grad(loss, net.body.weight)[0])
    torch.testing.assert_close(grads[0], grads[1])
    assert float(grads[0].abs().sum()) > 0


# teacher_confidence


@pytest.mark.parametrize("classes", [2, 4])
def test_teacher_confidence(classes):
    """Prevents a mean over C in place of C − 1 classes, and a negative share for a teacher that is wrong."""
    _, step = net_and_step(classes=classes, rows=12, hidden=[3])
    found, negative = TeacherConfidence()(step), 0
    for i, y in enumerate(step.batch["labels"].tolist()):
        t = np.exp(step.batch["teacher_logits"][i].numpy())
        t = (t / t.sum()).tolist()
        margin = 1.0 if y < 0 else t[y] - sum(x for c, x in enumerate(t) if c != y) / (classes - 1)
        negative += margin < 0
        assert found[i].tolist() == pytest.approx([1 - max(0, margin), max(0, margin)], rel=1e-9)
    assert negative > 1


# uncertainty


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("hidden", [[], [0, 4]])
def test_uncertainty_gradients(k, hidden):
    """Prevents weights and own loss that do not add up to the one objective Σ_k L_k/(2·exp s_k) + s_k/2 of student and
    s.
    """
    net, step = net_and_step(k=k)
    _, partly = net_and_step(k=k, hidden=hidden)
    method = Uncertainty(NAMES[:k]).double()
    method.log_variances.data = torch.tensor([0.3, -0.8, 1.1], dtype=torch.float64)[:k]
    s = method.log_variances.detach().clone().requires_grad_()
    for each in (step, partly):
        joint = (mean_terms(each) / (2 * s.exp()) + s / 2).sum()
        (expected,) = torch.autograd.grad(joint, [s], retain_graph=True)
        (found,) = torch.autograd.grad(method.own_loss(each), [method.log_variances])
        torch.testing.assert_close(found, expected)
    joint = (mean_terms(step) / (2 * s.exp()) + s / 2).sum()
    (expected,) = torch.autograd.grad(joint, [net.body.weight], retain_graph=True)
    (found,) = torch.autograd.grad((method(step).detach() * step.losses).sum(1).mean(), [net.body.weight])
    torch.testing.assert_close(found, expected)


def test_uncertainty_optimum_and_rate():
    """Prevents variances that never move (the student's rate), or move to something else than exp s_k = L_k."""
    _, step = net_and_step(k=3, rows=20)
    method = Uncertainty(NAMES, lr=0.1).double()
    default = Uncertainty(NAMES)
    for each, steps in ((default, 1), (method, 250)):
        optimizer = each.own_optimizer()
        for _ in range(steps):
            optimizer.zero_grad()
            each.own_loss(step).backward()
            optimizer.step()
    assert (default.log_variances.detach() + 0.5).abs().tolist() == pytest.approx([1e-2] * 3, rel=1e-3)
    torch.testing.assert_close(method.log_variances.detach().exp(), mean_terms(step).detach(), rtol=1e-3, atol=0)


def test_uncertainty_of_a_term_that_no_row_has():
    """Prevents a batch without labels from pulling their variance towards 0, or making it NaN."""
    _, step = net_and_step(hidden=range(7))
    method = Uncertainty()
    method.own_loss(step).backward()
    assert method.log_variances.grad[0] == 0 and method.log_variances.grad[1] != 0


# dwa


def weights_of_windows(means_of_windows, k):
    """The rule for the means of the windows so far, in plain Python."""
    if len(means_of_windows) < 2:
        return [1.0] * k
    exponentials = [np.exp(last / earlier / 2) for earlier, last in zip(*means_of_windows[-2:], strict=True)]
    return [k * x / sum(exponentials) for x in exponentials]


@pytest.mark.parametrize("k", [2, 3])
def test_dwa_over_windows(k):
    """Prevents windows of the wrong length or order, a ratio upside down, rows without a label in the mean; and a
    resumed run that starts its window anew.
    """
    draw, window = np.random.default_rng(k), 4
    method, finished, rows, seen = DynamicWeightAverage(NAMES[:k], window).double(), [], [], set()
    for batch in range(22):
        losses = draw.exponential(size=(draw.integers(1, 6), k)) * [1.0, 2.0 / (batch + 1), 3.0][:k]
        valid = np.ones_like(losses, dtype=bool)
        valid[0, 0] = batch % 3 != 0
        step = losses_step(losses * valid, torch.tensor(valid))
        found = method(step)
        assert found.shape == losses.shape
        assert found[0].tolist() == pytest.approx(weights_of_windows(finished, k), rel=1e-9)
        seen.add(round(float(found[0, 0]), 9))
        method.observe(step)
        rows.append((losses, valid))
        if len(rows) == window:
            columns = zip(np.concatenate([x for x, _ in rows]).T, np.concatenate([v for _, v in rows]).T, strict=True)
            finished.append([float(np.mean(x[v])) for x, v in columns])
            rows = []
        if batch == 13:  # in the middle of a window, through a checkpoint
            state = {name: value.clone() for name, value in method.state_dict().items()}
            method = DynamicWeightAverage(NAMES[:k], window).double()
            method.load_state_dict(state)
    assert len(seen) == 5  # ones, and four windows that differ


def test_dwa_of_a_term_without_value():
    """Prevents NaN weights where a term had no value in a window, or was 0 in it."""
    method = DynamicWeightAverage(window=1)
    for losses, valid in (
        ([[0.0, 2.0]], [[False, True]]),
        ([[0.0, 1.0]], [[False, True]]),
        ([[0.0, 1.0]], [[True, True]]),
    ):
        method.observe(losses_step(losses, torch.tensor(valid)))
    assert method(losses_step([[0.0, 1.0]]))[0].tolist() == pytest.approx([1.0, 1.0])


# gradnorm


def gradnorm_by_double_backward(v, first, net, step, asymmetry=1.5):
    """∂L_grad/∂v with the norms of the weighted terms differentiated in full."""
    v = v.detach().clone().requires_grad_()
    weights, terms = len(v) * v.softmax(0), mean_terms(step)
    norms = []
    for weight, term in zip(weights, terms, strict=True):
        gradient = torch.autograd.grad(weight * term, [net.head.weight, net.head.bias], create_graph=True)
        norms.append(torch.cat([g.flatten() for g in gradient]).norm())
    norms = torch.stack(norms)
    ratios = terms.detach() / first
    target = norms.mean().detach() * (ratios / ratios.mean()) ** asymmetry
    loss = (norms - target).abs().sum()
    return loss, torch.autograd.grad(loss, v, retain_graph=True)[0]


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("hidden", [[], [0, 4]])
@pytest.mark.parametrize("asymmetry", [0.0, 1.5])
def test_gradnorm_gradient(k, hidden, asymmetry):
    """Prevents a target that v descends too, norms of other parameters, rates upside down, and a graph that is gone or
    a gradient left in the head before the student's own backward.
    """
    net, step = net_and_step(k=k, hidden=hidden)
    method = GradNorm(NAMES[:k], asymmetry=asymmetry).double()
    method.logits.data = torch.tensor([0.4, -0.2, 0.1], dtype=torch.float64)[:k]
    first = torch.tensor([0.7, 2.5, 1.9], dtype=torch.float64)[:k]
    method.observe(losses_step(first[None]))
    expected, slope = gradnorm_by_double_backward(method.logits, first, net, step, asymmetry)
    found = method.own_loss(step)
    torch.testing.assert_close(found.detach(), expected.detach())
    torch.testing.assert_close(torch.autograd.grad(found, method.logits)[0], slope)
    assert float(slope.abs().min()) > 1e-6 and all(p.grad is None for p in net.parameters())
    (method(step).detach() * step.losses).sum(1).mean().backward()
    assert float(net.head.weight.grad.abs().sum()) > 0


def test_gradnorm_keeps_the_first_losses():
    """Prevents rates against the batch before, and a first step without any: there all rates are 1."""
    net, step = net_and_step()
    method = GradNorm().double()
    first = mean_terms(step).detach()
    expected, _ = gradnorm_by_double_backward(method.logits, first, net, step)
    torch.testing.assert_close(method.own_loss(step).detach(), expected.detach())
    method.observe(step)
    method.observe(net_and_step(seed=1)[1])
    torch.testing.assert_close(method.state_dict()["first"], first)


def test_gradnorm_balances():
    """Prevents weights that move away from balance: with equal targets the weighted norms meet."""
    net, step = net_and_step(rows=20, k=3)
    method = GradNorm(NAMES, lr=0.05, asymmetry=0.0).double()
    optimizer = method.own_optimizer()
    gradients = [torch.autograd.grad(x, list(net.head.parameters()), retain_graph=True) for x in mean_terms(step)]
    norms = torch.stack([torch.cat([g.flatten() for g in gradient]).norm() for gradient in gradients])
    assert float(norms.max() / norms.min()) > 2
    for _ in range(120):
        optimizer.zero_grad()
        method.own_loss(step).backward()
        optimizer.step()
    balanced = method(step)[0].detach() * norms
    assert float(balanced.max() / balanced.min()) < 1.1


def test_gradnorm_of_a_batch_without_labels():
    """Prevents a term that no row has from halving the other's target, and from a first loss of 0."""
    _, step = net_and_step(hidden=range(7))
    method = GradNorm()
    assert method.own_loss(step) is None
    method.observe(step)
    assert method.first[0] == 0 and method.first[1] > 0


def test_gradnorm_of_a_term_that_is_solved():
    """Prevents an error, or NaN, from a term whose loss is exactly 0: a student that starts as its teacher."""
    _, step = net_and_step()
    step.losses = step.losses * torch.tensor([1.0, 0.0])
    method = GradNorm()
    assert method.own_loss(step) is None
    method.observe(net_and_step()[1])
    assert bool(method.own_loss(step).isfinite())


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda net, step: setattr(step, "shared_parameters", ()), "this student has none"),
        (lambda net, step: net.head.requires_grad_(False), "this student has none"),
        (
            lambda net, step: setattr(
                step, "losses", torch.stack([step.losses[:, 0], net.body.weight.square().sum().expand(7)], 1)
            ),
            "'kd' does not depend on it",
        ),
        (
            lambda net, step: setattr(step, "losses", net.body.weight.square().sum().expand(7, 2)),
            "'ce' does not depend on it",
        ),
    ],
)
def test_gradnorm_refuses(damage, said):
    """Prevents weights that balance nothing: norms of 0, or of a layer that is not there."""
    net, step = net_and_step()
    damage(net, step)
    with pytest.raises(UserError, match=said) as caught:
        GradNorm().own_loss(step)
    assert "gradnorm balances" in str(caught.value) and "use `DynamicWeightAverage()`" in str(caught.value)


# What all share


def test_mean_over_ranks(monkeypatch):
    """Prevents a mean of means: with rows of two ranks, and labels on some, it is the mean over all of them."""
    (_, a), (_, b) = net_and_step(rows=3, hidden=[0]), net_and_step(seed=1, rows=5)
    other = torch.stack(means.sums_and_counts(b))
    monkeypatch.setattr(means, "all_reduce_mean", lambda value: (value + other) / 2)
    both = losses_step(torch.cat([a.losses, b.losses]).detach(), torch.cat([a.valid, b.valid]))
    torch.testing.assert_close(means.quotient(*means.sums_and_counts(a)), mean_terms(both))


@pytest.mark.parametrize(
    ("name", "terms", "provides", "said"),
    [
        (
            "wls",
            [SquaredError(), LogitMSE()],
            "numbers",
            "weighting=wls.* is for classes, and this task is a regression; use",
        ),
        (
            "teacher_confidence",
            [SquaredError(), LogitMSE()],
            "numbers",
            "weighting=teacher_confidence .* this task is a regression",
        ),
        ("wls", [SquaredError(), SoftCrossEntropy()], "classes", "'squared_error' is for a regression"),
        (
            "wls",
            [BinaryCrossEntropy(), BernoulliKL()],
            "labels",
            "weighting=wls.* is for classes, and this task is a multi-label task; use",
        ),
        (
            "annealed",
            [BinaryCrossEntropy(), DistillationKL()],
            "labels",
            "'kd' is for classes or words, and this task is a multi-label task",
        ),
        (
            "annealed",
            [BinaryCrossEntropy(), DistillationKL()],
            "classes",
            "'bce' is for a multi-label task, and this task is of classes",
        ),
        ("wls", [CrossEntropy(), AnnealedMSE()], "classes", "no teacher term"),
        ("annealed", [CrossEntropy()], "classes", "no teacher term"),
        ("annealed", [DistillationKL()], "classes", "no label term"),
        ("teacher_confidence", [CrossEntropy()], "classes", "no teacher term"),
        ("teacher_confidence", [DistillationKL(), SoftCrossEntropy()], "classes", "no label term"),
        ("dwa", [CrossEntropy()], "classes", "dwa balances"),
        ("gradnorm", [DistillationKL()], "classes", "gradnorm balances"),
    ],
)
def test_what_makes_no_sense_is_refused(name, terms, provides, said):
    """Prevents cross-entropies of a regression's single output, and a balance of one term; told before the teacher is
    trained.
    """
    with pytest.raises(UserError, match=said) as caught:
        check_terms(terms, {provides}, METHODS[name]())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", METHODS)
def test_what_makes_sense_is_not_refused(name):
    """Prevents a refusal of binary tasks, of regressions that a method has no quarrel with, or of terms in another
    order.
    """
    method = METHODS[name]()
    check_terms([SoftCrossEntropy(), CrossEntropy()], {"classes"}, method)
    three = [CrossEntropy(), DistillationKL(), HiddenStates()]
    if name in ("annealed", "wls", "teacher_confidence"):
        with pytest.raises(UserError, match="'hidden' would weigh nothing"):
            check_terms(three, {"classes"}, method)
    else:
        check_terms(three, {"classes"}, method)
    if name not in ("wls", "teacher_confidence"):
        check_terms([SquaredError(), LogitMSE()], {"numbers"}, method)
        check_terms([BinaryCrossEntropy(), BernoulliKL()], {"labels"}, method)


# In the loop


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        yield


def distilled(weighting, tmp_path, epochs=2, resume=None, keep=None, **options):
    """A module trained on batches of 8 of 32 rows under a real Trainer, two of them without a label."""
    torch.manual_seed(0)
    net = DistillationModule(
        Student(dropout=0.2),
        [CrossEntropy(), SoftCrossEntropy(2.0)],
        weighting,
        functools.partial(adamw, lr=1e-2),
        32,
        **options,
    )
    data = Rows(32, 1)
    data.rows["labels"][[3, 20]] = -1
    saver = [ModelCheckpoint(keep, filename="{epoch}", save_top_k=-1)] if keep else []
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_model_summary=False,
        max_epochs=epochs,
        enable_progress_bar=False,
        default_root_dir=tmp_path,
        callbacks=saver,
        enable_checkpointing=bool(keep),
    )
    trainer.fit(
        net, DataLoader(data, 8, generator=torch.Generator()), ckpt_path=resume, weights_only=True if resume else None
    )
    return net


@pytest.mark.parametrize("name", METHODS)
def test_in_the_loop(name, tmp_path):
    """Prevents a method that works alone, but not where its parameters are trained and its weights masked."""
    torch.manual_seed(0)
    before = [p.detach().clone() for p in Student(dropout=0.2).parameters()]
    net = distilled(METHODS[name](), tmp_path)
    assert net.global_step == 8
    pairs = zip(net.student.parameters(), before, strict=True)
    assert all(bool(p.isfinite().all()) and not torch.equal(p, b) for p, b in pairs)
    labelled = torch.arange(32) != 3
    labelled[20] = False
    weights = net.ledger.weights
    assert bool((weights[labelled].sum(1) > 0.9).all()) and bool((weights[~labelled, 0] == 0).all())
    if name == "annealed":  # of the last epoch: a batch's share of the steps before it
        assert weights[0::8, 0][[0, 1, 2, 3]].tolist() == pytest.approx([4 / 8, 5 / 8, 6 / 8, 7 / 8])
    for parameter in net.weighting.parameters():
        assert parameter.std() > 0, "did not learn"
    if name == "dwa":
        assert int(net.weighting.batches) == 8 and float(net.weighting.counts[0]) == 8 * 8 - 4


@pytest.mark.parametrize("name", ["uncertainty", "dwa", "gradnorm"])
def test_resumed_run_is_the_same(name, tmp_path):
    """Prevents a resumed run that forgets variances, moments, windows or first losses."""
    build = functools.partial(DynamicWeightAverage, window=3) if name == "dwa" else METHODS[name]
    whole = distilled(build(), tmp_path, 3, keep=tmp_path / name)
    resumed = distilled(build(), tmp_path, 3, resume=tmp_path / name / "epoch=0.ckpt")
    a, b = whole.state_dict(), resumed.state_dict()
    assert [k for k in a if not torch.equal(a[k], b[k])] == []


def test_accumulated(tmp_path):
    """Prevents parameters of a method that are never stepped, or every part, where a student step is taken in parts."""
    net = distilled(Uncertainty(), tmp_path, accumulate=2)
    assert net.global_step == 8
    moments = net.trainer.optimizers[1].state.values()
    assert [int(state["step"]) for state in moments] == [8]
    with pytest.raises(UserError, match=r"`accumulate=2` with weighting=gradnorm.*use `DynamicWeightAverage\(\)`"):
        distilled(GradNorm(), tmp_path, accumulate=2)


def test_permuted_keeps_the_learning():
    """Prevents a shuffled control of a method with memory that remembers nothing."""
    method = Permuted(DynamicWeightAverage(window=1))
    for losses in ([[1.0, 1.0]], [[1.0, 3.0]]):
        method.observe(losses_step(losses))
    step = losses_step([[1.0, 1.0]])
    step.batch = {"index": torch.zeros(1, dtype=torch.long)}
    assert method(step)[0, 1] > 1


def test_float32_weights_for_float32_losses():
    """Prevents weights of another precision than the losses, which would change that of the student's loss."""
    _, step = net_and_step()
    single = dataclasses.replace(step, losses=step.losses.detach().float(), batch={**step.batch})
    for name, build in METHODS.items():
        assert build()(single).dtype == torch.float32, name
