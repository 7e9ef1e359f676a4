"""`meta.weights=current` with a lookahead: one backward gives the lookahead's gradient and the student's."""

from __future__ import annotations

import dataclasses
import functools
import weakref

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn import functional as F

from rwkd_lightning.bilevel import FiniteDifference, Jvp, Unrolled, engine
from rwkd_lightning.meta import All, HeadWithBank, LastBlock
from rwkd_lightning.terms import CrossEntropy, DistillationKL
from rwkd_lightning.training.optim import adamw, linear_schedule
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting import RWKD, ClassificationFeatures, GlobalAlpha, MetaWeightNet, Permuted
from tests.training import test_distillation_module as loop
from tests.training.test_distillation_module import tgeo
from tests.training.test_module_accumulation import assert_same
from tests.training.test_module_not_finite import Steep, stopped
from tests.training.test_module_terms_inside import Inner, Wide, hidden_term

STEP = 0.2


def plain(terms=("ce", "kd")):
    return RWKD(ClassificationFeatures(), terms, evidence=0.0)


METHODS = {
    "rwkd_plain": plain,
    "global": lambda: GlobalAlpha(lr=0.1),
    "mwn": MetaWeightNet,
    "tgeo": tgeo,
    "permuted": lambda: Permuted(plain()),
}


@pytest.fixture
def made(module, meta_step, student):
    """A module whose lookahead and step share the gradient; with ``shared=False`` the same one that takes both."""

    def make(weighting, shared=True, method=None, theta=None, net=None, **options):
        torch.manual_seed(2)
        weighting = weighting()
        for p in weighting.parameters():
            torch.nn.init.normal_(p, std=0.5)  # no sample weighs what another does
        weighting.reads_influence = not shared
        options.setdefault("optimizer", functools.partial(adamw, lr=1e-2))
        meta = meta_step(theta=theta or All(), engine=method or Jvp(), lookahead_lr=STEP)
        return module(weighting, net=net or student(dropout=0.3), meta=meta, updated_weights="current", **options)

    return make


@pytest.fixture
def second_gradients(monkeypatch, unrehearsed):
    """Counts the lookaheads that took a gradient of their own."""
    calls, of = [], engine.training_gradient
    monkeypatch.setattr(engine, "training_gradient", lambda problem: calls.append(1) or of(problem))
    return calls


@pytest.mark.parametrize("theta", [All, LastBlock])
@pytest.mark.parametrize("method", [Unrolled(), Jvp(), FiniteDifference(1e-5, central=True)], ids=repr)
@pytest.mark.parametrize("name", METHODS)
def test_as_with_a_gradient_each(made, rows, fit, second_gradients, name, method, theta):
    """Prevents a lookahead along a clipped, a stale or another batch's gradient, a student's step along other weights,
    and other dropout masks, for rows of which some have no label; and a second gradient where the first would do.
    """
    ends, taken = [], []
    for shared in (True, False):
        net = made(METHODS[name], shared, method, theta(), clip=0.05, schedule=linear_schedule)
        data = rows(32, 1, corrupted=0.4)
        data.rows["labels"][[3, 20]] = -1
        trainer = fit(net, data, precision="64-true")
        assert trainer.global_step == net.meta.steps == 4
        ends.append(net)
        taken.append(len(second_gradients))
    assert_same(*ends, tolerance=1e-7 if isinstance(method, FiniteDifference) else 1e-10)
    assert taken == [0, 0 if isinstance(method, Unrolled) else 4]
    assert float(ends[0].ledger.weights.std(0).min()) > 0 or name == "global"


def test_by_hand(made, student, rows, fit):
    """Prevents an influence at another point than θ − a·∇, unclipped and under the weights used, and another student's
    step.

    By hand: w as set, g by one backward; θ̂ = θ − a·g; v there; u_ik = ⟨v, ∇l_ik⟩ by one backward each.
    """
    data, w = rows(8, 1), torch.tensor([0.3, 0.7]).double()

    def fixed():
        return GlobalAlpha(lr=0.1)

    net = made(fixed, net=student(), clip=1e-2, optimizer=lambda m: torch.optim.SGD(m.parameters(), lr=1.0))
    net.weighting.logits.data = w.float().log()
    twin = student().double()
    fit(net, data, precision="64-true")

    leaves = list(twin.parameters())

    def losses(parameters, batch):
        named = dict(zip(dict(twin.named_parameters()), parameters, strict=True))
        logits = torch.func.functional_call(twin, named, (batch,))["logits"]
        log_p, log_q = (x.double().div(2).log_softmax(1) for x in (logits, batch["teacher_logits"]))
        kd = 4 * F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1)
        return torch.stack([F.cross_entropy(logits, batch["labels"], reduction="none"), kd], 1)

    each = losses(leaves, data.rows)
    g = torch.autograd.grad((w * each).sum(1).mean(), leaves, retain_graph=True)
    ahead = [(p - STEP * x).detach().requires_grad_() for p, x in zip(leaves, g, strict=True)]
    v = torch.autograd.grad(losses(ahead, net.meta.stream[0])[:, 0].mean(), ahead)
    u = torch.stack(
        [
            torch.stack(
                [
                    sum(
                        (a * b).sum() for a, b in zip(torch.autograd.grad(x, leaves, retain_graph=True), v, strict=True)
                    )
                    for x in row
                ]
            )
            for row in each
        ]
    )
    torch.testing.assert_close(net.ledger.influence[:8], u / u.abs().mean(), rtol=1e-6, atol=1e-9)
    size = torch.cat([x.flatten() for x in g]).norm()
    assert float(size) > 0.1  # ten times what the clipping leaves
    for p, q, x in zip(net.student.parameters(), leaves, g, strict=True):
        torch.testing.assert_close(p.detach(), (q - 1e-2 / size * x).detach(), rtol=1e-5, atol=1e-10)


def test_terms_with_parameters(made, rows, fit):
    """Prevents a projection that gets no gradient where the student's is the lookahead's."""
    ends = []
    for shared in (True, False):
        terms = [CrossEntropy(), DistillationKL(2.0), hidden_term(16)]
        start = terms[2].projections[0].weight.detach().clone()
        net = made(lambda: plain(("ce", "kd", "hidden")), shared, net=Inner(0), terms=terms, teacher=Wide(1).double())
        fit(net, rows(32, 1), precision="64-true")
        assert not torch.equal(terms[2].projections[0].weight.detach().float(), start)
        ends.append(net)
    assert_same(*ends)


def test_bf16_mixed(made, rows, fit):
    """Prevents a gradient, θ̂ or weights in bf16, and another gradient than autocast gives when it is taken twice."""
    ends = []
    for shared in (True, False):
        net = made(plain, shared, FiniteDifference(), optimizer=lambda m: torch.optim.SGD(m.parameters(), lr=0.1))
        start = torch.cat([p.detach().flatten() for p in net.student.parameters()])
        fit(net, rows(32, 1), precision="bf16-mixed")
        assert {v.dtype for v in net.state_dict().values() if v.is_floating_point()} == {torch.float32}
        ends.append(torch.cat([p.detach().flatten() for p in net.student.parameters()]) - start)
    assert float((ends[0] - ends[1]).norm() / ends[1].norm()) < 0.01


@pytest.mark.parametrize(("shared", "alive"), [(True, False), (False, True)])
def test_training_graph_is_gone_before_the_held_out_pass(made, rows, fit, unrehearsed, shared, alive):
    """Prevents a training graph, the memory of a step, kept through the meta step although its backward is taken."""
    net, kept, seen = made(plain, shared), [], []

    class Box:
        def __init__(self, tensor):
            self.tensor = tensor
            kept.append(weakref.ref(self))

    run = net.run

    def boxed(batch):
        with torch.autograd.graph.saved_tensors_hooks(Box, lambda box: box.tensor):
            return run(batch)

    def held_out(student, _):
        if not student.training:
            seen.append(any(box() is not None for box in kept))

    net.run = boxed
    net.student.register_forward_pre_hook(held_out)
    fit(net, rows(8, 1))
    assert len(kept) > 5 and seen == [alive]


def test_resumed_run_is_bit_identical(made, rows, fit, tmp_path):
    """Prevents gradients, masks or φ that a resumed run does not have."""
    whole, resumed = made(plain), made(plain)
    save = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    fit(whole, rows(32, 1), max_epochs=3, callbacks=[save], enable_checkpointing=True)
    torch.manual_seed(77)
    fit(resumed, rows(32, 1), max_epochs=3, ckpt_path=tmp_path / "epoch=0.ckpt")
    assert_same(whole, resumed, tolerance=0)


@pytest.mark.parametrize("which", ["loss", "gradient"])
def test_not_finite(made, rows, fit, which):
    """Prevents a student, a φ or a record that takes in a gradient that is not finite, and another message than
    usual.
    """
    data, terms = rows(32, 1), [CrossEntropy(), DistillationKL(2.0)]
    if which == "loss":
        data.rows["teacher_logits"][19] = float("nan")
    else:
        terms[1] = Steep()
    found = []
    for shared in (True, False):
        net = made(lambda: GlobalAlpha(lr=0.1), shared, terms=terms)
        found.append(str(stopped(net, fit, data)))
    assert found[0] == found[1] and found[0].startswith(
        "step 2: the loss of 'kd'" if which == "loss" else "step 2: the "
    )


class Claims(GlobalAlpha):
    """Says that it does not read the influence, and does."""

    def forward(self, step):
        return super().forward(step) * (1.0 if step.influence is None else 0.5)


def test_weights_that_move_after_all_are_refused(made, rows, fit):
    """Prevents a student's step along weights that are not the method's."""
    with pytest.raises(UserError, match="has reads_influence=False, but .*use `updated_weights='new'`"):
        fit(made(Claims), rows(8, 1))


class Renamed(All):
    """A θ of one's own, under names of its own."""

    def view(self, *arguments):
        found = super().view(*arguments)
        found.parameters = {f"my {name}": p for name, p in found.parameters.items()}
        return found


def test_a_theta_by_other_names_is_refused(made, rows, fit):
    """Prevents a lookahead that stands still, as none of its parameters is found in the gradient."""
    with pytest.raises(UserError, match="'my body.bias'.*use `updated_weights='new'`"):
        fit(made(plain, theta=Renamed()), rows(8, 1))


@pytest.mark.parametrize("name", [*METHODS, "rwkd", "rwkd with options", "rwkd_online", "l2rw"])
def test_methods_know_whether_they_read_the_influence(module, rows, fit, name):
    """Prevents a method that takes two backwards without need, and one whose weights move after the only one."""
    method, said = (METHODS.get(name) or loop.METHODS[name])(), []
    for p in method.parameters():
        torch.nn.init.normal_(p, std=0.5)

    def observe(step):
        without = dataclasses.replace(step, influence=None)
        said.append(not torch.equal(method(step), method(without)))

    method.observe = observe
    fit(module(method), rows(8, 1))
    assert said == [method.reads_influence]


@pytest.mark.parametrize("change", ["evidence", "new weights", "bank"])
def test_a_gradient_each_where_they_differ(made, rows, fit, second_gradients, change):
    """Prevents a shared gradient where the weights of lookahead and step differ, or θ has other parameters than the
    student.
    """
    net = made(plain, theta=HeadWithBank() if change == "bank" else None)
    if change == "evidence":
        net.weighting.reads_influence = RWKD(ClassificationFeatures()).reads_influence
    elif change == "new weights":
        net.updated_weights = "new"
    if change == "bank":
        net.meta.build(net.student)
    fit(net, rows(32, 1))
    assert len(second_gradients) == 4
