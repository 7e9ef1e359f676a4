"""The meta step over terms that look inside the student, against one plain backward a sample and term."""

from __future__ import annotations

import functools

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import tiny
from rwkd_lightning.bilevel import FiniteDifference, Jvp, RandomState, Unrolled
from rwkd_lightning.meta import All, Head, HeadWithBank, LastBlock, MetaStep
from rwkd_lightning.systems.text.terms import HiddenStates, ValueRelation
from rwkd_lightning.terms import CrossEntropy, DistillationKL, LogitMSE, SoftCrossEntropy, stack
from rwkd_lightning.training.compatibility import check_reach
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting import RWKD, ClassificationFeatures, FixedAlpha, GradNorm

ENGINES = {"finite difference": (functools.partial(FiniteDifference, 1e-4, central=True), 1e-6), "jvp": (Jvp, 1e-9),
           "unrolled": (Unrolled, 1e-9)}  # fmt: skip


def wide(width):
    """A teacher of another width and depth."""
    return tiny.bert(seed=1, hidden_size=width, num_hidden_layers=4).double().eval()


def setting(student, data, terms, dropout=0.1):
    """A student and a teacher connected by the terms, a batch with what the terms read of the teacher, and meta
    rows.
    """
    learner, teacher = student(dropout), wide(48)
    for term in terms:
        term.connect(learner, teacher)
        term.double()
    batch, held_out = data(5, 1), data(7, 2)
    with torch.no_grad():
        batch |= {f"teacher_{n}": x for n, x in teacher(batch).items() if n in ("hidden", "values")}
    return learner, batch, held_out


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("theta", [All, LastBlock])
def test_influence_of_every_term(student, data, stream, theta, engine, dropout):
    """Prevents influences of zero, or of the wrong term, for what is not in the logits; and a projection counted as
    θ.
    """
    terms = [
        CrossEntropy(),
        DistillationKL(2.0),
        SoftCrossEntropy(3.0),
        LogitMSE(),
        HiddenStates([[0, 1], [1, 3]]),
        ValueRelation(4),
    ]
    learner, batch, held_out = setting(student, data, terms, dropout)
    make, tolerance = ENGINES[engine]
    meta = MetaStep(make(), theta(), [CrossEntropy()], stream(held_out, 7))
    randomness = RandomState.capture(torch.device("cpu"))
    outputs = learner(batch)
    weights = torch.full((5, 6), 1 / 6, dtype=torch.float64)
    found = meta.influence(learner, batch, outputs, lambda o: stack(terms, o, batch), weights, randomness)

    names = dict(learner.named_parameters())
    chosen = [names[n] for n in (learner.block_names() if theta is LastBlock else names)]
    learner.eval()
    v = torch.autograd.grad(CrossEntropy()(learner(held_out), held_out).mean(), chosen, allow_unused=True)
    learner.train()
    with sdpa_kernel(SDPBackend.MATH), randomness.replay():
        losses = stack(terms, learner(batch), batch)
    expected = torch.zeros(5, 6, dtype=torch.float64)
    for i in range(5):
        for k in range(6):
            gradient = torch.autograd.grad(losses[i, k], chosen, retain_graph=True, allow_unused=True)
            expected[i, k] = sum(
                (a * b).sum() for a, b in zip(v, gradient, strict=True) if a is not None and b is not None
            )
    assert bool((expected.abs().amax(0) > 1e-6).all())
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize("engine", ENGINES)
def test_lookahead(student, data, stream, engine):
    """Prevents a lookahead that leaves the new terms out of its step."""
    terms = [CrossEntropy(), DistillationKL(2.0), HiddenStates([[0, 1], [1, 3]]), ValueRelation(4)]
    learner, batch, held_out = setting(student, data, terms)
    weights = torch.softmax(torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3)), 1)
    randomness = RandomState.capture(torch.device("cpu"))
    outputs = learner(batch)
    arguments = (learner, batch, outputs, lambda o: stack(terms, o, batch), weights, randomness)
    make, tolerance = ENGINES[engine]
    found = MetaStep(make(), All(), [CrossEntropy()], stream(held_out, 7), 0.05).influence(*arguments)

    own = dict(learner.named_parameters())
    objective = (weights * stack(terms, outputs, batch)).sum(1).mean()
    gradients = torch.autograd.grad(objective, list(own.values()), allow_unused=True, retain_graph=True)
    moved = {
        n: p.detach() - (0.05 * g if g is not None else 0) for (n, p), g in zip(own.items(), gradients, strict=True)
    }
    for p in moved.values():
        p.requires_grad_()
    learner.eval()
    meta_loss = CrossEntropy()(torch.func.functional_call(learner, moved, (held_out,)), held_out).mean()
    v = torch.autograd.grad(meta_loss, list(moved.values()), allow_unused=True)
    learner.train()
    losses = stack(terms, outputs, batch)
    for i, k in ((0, 0), (1, 1), (2, 2), (3, 3)):
        gradient = torch.autograd.grad(losses[i, k], list(own.values()), retain_graph=True, allow_unused=True)
        expected = sum((a * b).sum() for a, b in zip(v, gradient, strict=True) if a is not None and b is not None)
        assert float(found[i, k]) == pytest.approx(float(expected), rel=20 * tolerance, abs=1e-8)


def rwkd(terms):
    return RWKD(ClassificationFeatures(), [t.name for t in terms])


@pytest.mark.parametrize(("theta", "layers", "refused"), [
    (Head, "uniform", True), (HeadWithBank, "uniform", True), (All, "uniform", False), (LastBlock, "uniform", True),
    (LastBlock, [[0, 1], [1, 3]], False),
])  # fmt: skip
def test_terms_out_of_reach_are_refused(student, theta, layers, refused):
    """Prevents weights of nothing: by the head alone the influence of a hidden state is 0 for every sample."""
    terms, learner = [CrossEntropy(), HiddenStates(layers)], student()
    terms[1].connect(learner, wide(32))
    if refused:
        with pytest.raises(UserError, match=r"'hidden' reads the student's hidden, which do not.*use `theta=All\(\)`"):
            check_reach(terms, rwkd(terms), theta(), learner)
    else:
        check_reach(terms, rwkd(terms), theta(), learner)
    check_reach(terms, FixedAlpha(), theta(), learner)  # takes no meta step


def test_gradnorm_needs_the_head(student):
    """Prevents a term balanced by a gradient that is always 0, and a run that fails at its first step."""
    with pytest.raises(UserError, match="'value_relation' does not depend on the student's last layer"):
        check_reach([CrossEntropy(), ValueRelation(4)], GradNorm(["ce", "value_relation"]), None, student())
    with pytest.raises(UserError, match="this student has none"):
        check_reach([CrossEntropy(), DistillationKL()], GradNorm(), None, torch.nn.Linear(2, 2))
