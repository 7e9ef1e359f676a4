from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from rwkd_lightning.bilevel import FiniteDifference, Jvp, RandomState, Unrolled, surrogate_loss
from rwkd_lightning.meta import All, Head, HeadWithBank, LastBlock, MetaStep
from rwkd_lightning.systems.text.models import Classifier
from rwkd_lightning.terms import CrossEntropy, DistillationKL, stack
from rwkd_lightning.utils.errors import UserError

TERMS = [CrossEntropy(), DistillationKL(2.0)]
LAST = ("network.bert.encoder.layer.1.", "network.bert.pooler.", "network.classifier.")
HEAD = ("network.classifier.",)
THETAS = {
    "all": (All, ("network.",)),
    "last block": (LastBlock, LAST),
    "head": (lambda: Head(centre=False), HEAD),
    "bank": (lambda: HeadWithBank(centre=False), HEAD),
    "centred head": (lambda: Head(centre=True), HEAD),
    "centred bank": (lambda: HeadWithBank(centre=True), HEAD),
}
thetas = pytest.mark.parametrize("theta", THETAS)


def training_pass(student, batch):
    """What the module does before a meta step."""
    state = RandomState.capture(torch.device("cpu"))
    return state, student(batch)


def losses(logits, batch, temperature=2.0):
    """CE and T²·KL by the book."""
    log_p, log_q = (x.div(temperature).log_softmax(1) for x in (logits, batch["teacher_logits"].to(logits.dtype)))
    kd = temperature**2 * F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1)
    return torch.stack([F.cross_entropy(logits, batch["labels"], reduction="none"), kd], 1)


def centred(student, meta_batch):
    """The same student, its head written as W(h − h̄) + c with h̄ the mean feature of the held-out rows; θ is W
    alone.
    """
    student = copy.deepcopy(student)
    with torch.no_grad():
        mean = student.eval()(meta_batch)["features"].mean(0)
        student.head.bias += student.head.weight @ mean
    student.head.register_forward_pre_hook(lambda _, args: (args[0] - mean,))
    return student.train()


def reference(student, theta, batch, meta_batch, state, phi, lookahead):
    """u by one backward a sample and term, ∇_φ by double backward."""
    prefixes = THETAS[theta][1]
    if "centred" in theta:
        student, prefixes = centred(student, meta_batch), ("network.classifier.weight",)
    fixed = {n: p.detach() for n, p in student.named_parameters()}
    trained = {n for n, p in student.named_parameters() if p.requires_grad}
    theta = {n: p.clone().requires_grad_() for n, p in fixed.items() if n.startswith(prefixes) and n in trained}

    def logits(parameters, rows, train):
        student.train(train)
        with torch.random.fork_rng():
            torch.set_rng_state(state.cpu)
            out = functional_call(student, {**fixed, **parameters}, (rows,))["logits"]
        student.train()
        return out

    leaves, a = list(theta.values()), lookahead or 1.0
    with sdpa_kernel(SDPBackend.MATH):
        terms = losses(logits(theta, batch, True), batch)
        w = phi(terms.detach()).softmax(1)
        used = w if lookahead else w - w.detach()
        inner = torch.autograd.grad((used * terms).sum(1).mean(), leaves, create_graph=True)
        hat = {n: p - a * g for (n, p), g in zip(theta.items(), inner, strict=True)}
        meta = F.cross_entropy(logits(hat, meta_batch, False), meta_batch["labels"])
        v = torch.autograd.grad(meta, list(hat.values()), retain_graph=True)
        by_phi = torch.autograd.grad(meta, list(phi.parameters()))
        terms = losses(logits(theta, batch, True), batch)
        u = [[sum((g * d).sum() for g, d in zip(torch.autograd.grad(x, leaves, retain_graph=True), v, strict=True))
              for x in row] for row in terms]  # fmt: skip
    return torch.tensor(u, dtype=terms.dtype), by_phi


def setting(student, data, stream, theta, engine=None, lookahead=None, meta_rows=10, **options):
    net, batch, meta_rows = student(**options), data(4, 1), data(meta_rows, 2)
    batch["teacher_logits"] = batch["teacher_logits"].double()
    meta = MetaStep(engine or Jvp(), THETAS[theta][0](), [CrossEntropy()], stream(meta_rows, 5), lookahead)
    meta.build(net)
    return net, batch, meta_rows, meta


def influence(meta, net, batch, phi=None):
    """A meta step as the module takes it; u, the training outputs and their generator state."""
    state, outputs = training_pass(net, batch)
    losses_at = stack(TERMS, outputs, batch).detach()
    weights = phi(losses_at).softmax(1).detach() if phi is not None else torch.full_like(losses_at, 0.5)
    return meta.influence(net, batch, outputs, lambda o: stack(TERMS, o, batch), weights, state), outputs, state


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("lookahead", [None, 0.2])
@pytest.mark.parametrize("engine", [Unrolled(), Jvp(), FiniteDifference(1e-5)], ids=repr)
@thetas
def test_theta_equals_double_backward(student, data, stream, theta, engine, lookahead, dropout):
    """Prevents a θ, a held-out batch, a mask or a mode other than the documented one in any restriction."""
    net, batch, rows, meta = setting(student, data, stream, theta, engine, lookahead, dropout=dropout)
    phi = nn.Linear(2, 2).double()
    found, _, state = influence(meta, net, batch, phi)
    held_out = rows if "bank" in theta else {k: v[:5] for k, v in rows.items()}
    u, by_phi = reference(net, theta, batch, held_out, state, phi, lookahead)
    tolerance = 1e-3 if isinstance(engine, FiniteDifference) else 1e-6
    assert float(((found - u).norm(dim=1) / u.norm(dim=1)).max()) < tolerance
    with torch.random.fork_rng():
        torch.set_rng_state(state.cpu)
        weights = phi(losses(net(batch)["logits"], batch).detach()).softmax(1)
    mine = torch.autograd.grad(surrogate_loss(weights, found, lookahead or 1.0), list(phi.parameters()))
    for a, b in zip(mine, by_phi, strict=True):
        assert float((a - b).norm() / b.norm()) < tolerance


@pytest.mark.parametrize("theta", ["bank", "centred bank"])
def test_bank_by_hand_and_its_refresh(student, data, stream, theta):
    """Prevents a v over one batch, of stale rows beyond those due, or of rows with the wrong targets.

    The head's gradient in closed form: V = (p − onehot(y))ᵀ·h / M, b = mean(p − onehot(y)); then for CE
    u_i = (p_i − onehot(y_i))·(V·h_i + b). Centred: h less the bank's mean, and no b.
    """
    net, batch, rows, meta = setting(student, data, stream, theta, meta_rows=12, dropout=0.0)

    def by_hand(bank):
        head = net.network.classifier
        error = (bank @ head.weight.T + head.bias).softmax(1) - F.one_hot(rows["labels"], 3)
        outputs, mean, b = net(batch), 0.0, error.mean(0)
        if "centred" in theta:
            mean, b = bank.mean(0), 0.0
        v = error.T @ (bank - mean) / len(bank)
        tangent = (outputs["features"] - mean) @ v.T + b
        return ((outputs["logits"].softmax(1) - F.one_hot(batch["labels"], 3)) * tangent).sum(1)

    bank = net.eval()(rows)["features"].detach().clone()
    torch.testing.assert_close(influence(meta, net.train(), batch)[0][:, 0], by_hand(bank), rtol=1e-9, atol=0)
    for p in net.network.bert.parameters():
        p.data += 0.05 * torch.randn_like(p)
    bank[5:10] = net.eval()(rows)["features"].detach()[5:10]  # the rows of step 1 alone are read again
    torch.testing.assert_close(influence(meta, net.train(), batch)[0][:, 0], by_hand(bank), rtol=1e-9, atol=0)
    assert meta.steps == 2


@pytest.mark.parametrize("engine", [Unrolled(), Jvp(), FiniteDifference(), FiniteDifference(central=True)], ids=repr)
@pytest.mark.parametrize("lookahead", [None, 0.2])
@thetas
def test_meta_step_leaves_no_trace(student, data, stream, theta, engine, lookahead):
    """Prevents a meta step that moves the student, its gradients, its modes, the dropout masks or the kept graph."""
    net, batch, _, meta = setting(student, data, stream, theta, engine, lookahead)
    net.network.bert.embeddings.dropout.eval()  # a part that its owner holds in evaluation mode
    for p in net.parameters():
        p.grad = torch.randn_like(p)
    before = copy.deepcopy(net.state_dict())
    gradients = [p.grad.clone() for p in net.parameters()]
    modes = [m.training for m in net.modules()]
    state, outputs = training_pass(net, batch)
    stream_state = torch.get_rng_state()
    loss = stack(TERMS, outputs, batch).sum(1).mean()
    expected = torch.autograd.grad(loss, list(net.parameters()), retain_graph=True)
    weights = torch.full((4, 2), 0.5, dtype=torch.float64)
    meta.influence(net, batch, outputs, lambda o: stack(TERMS, o, batch), weights, state)
    assert torch.equal(torch.get_rng_state(), stream_state)
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), gradients, strict=True))
    copy.deepcopy(net)  # nothing of an ended forward-mode pass is kept
    after = torch.autograd.grad(loss, list(net.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(after, expected, strict=True))


@pytest.mark.parametrize(
    "theta,engine,bound",
    [
        ("centred bank", Jvp(), 1e-4),
        ("bank", Jvp(), 1e-4),
        ("all", FiniteDifference(), 0.02),
        ("all", FiniteDifference(central=True), 5e-3),
        ("all", Jvp(), 1e-4),
    ],
)
def test_float32_after_training(data, stream, trained, theta, engine, bound):
    """Prevents a radius or a default whose float32 rounding drowns the per-sample u once gradients are small.

    Measured over eight dropout masks, the worst row of 16: at most 0.008 one-sided, 0.002 centrally, below 1e-5 in
    forward mode.
    """
    torch.manual_seed(0)
    batch, rows = data(16, 1), data(40, 2)
    meta = MetaStep(engine, THETAS[theta][0](), [CrossEntropy()], stream(rows, 40))
    found, _, state = influence(meta, trained, batch)
    exact = copy.deepcopy(trained).double()
    expected, _ = reference(exact, theta, batch, rows, state, nn.Linear(2, 2).double(), None)
    errors = (found - expected).norm(dim=1) / expected.norm(dim=1).median()
    assert float(errors.max()) < bound


def test_head_must_be_linear(data, stream):
    """Prevents a bank of the wrong features for a student whose last layer is not linear."""
    student = nn.Module()
    student.head = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(UserError, match="linear"):
        MetaStep(Jvp(), HeadWithBank(), [CrossEntropy()], stream(data(4, 0), 2)).build(student)


@pytest.mark.parametrize(
    "name,value", [("lookahead_lr", 0.0), ("lookahead_lr", -0.5), ("every", 0), ("start", 1.0), ("start", -0.2)]
)
def test_bad_values_are_named(name, value, stream, data):
    """Prevents a lookahead backwards and a division by zero; the message names argument and value."""
    with pytest.raises(UserError, match=rf"`{name}` is {value}"):
        MetaStep(Jvp(), All(), [CrossEntropy()], stream(data(4, 0), 2), **{name: value})


def test_due():
    """Prevents meta steps at the wrong cadence, or before their share of the training has passed."""
    meta = MetaStep(Jvp(), All(), [], None, every=3)
    assert [s for s in range(8) if meta.due(s)] == [0, 3, 6]
    late = MetaStep(Jvp(), All(), [], None, every=3, start=0.5)
    assert [s for s in range(10) if late.due(s, s / 10)] == [6, 9]


def test_last_block_names(student):
    """Prevents a θ that begins in the middle of a block or leaves out what follows the last one."""
    net: Classifier = student()
    assert net.block_names() == [n for n, _ in net.named_parameters() if n.startswith(LAST)]


@pytest.mark.parametrize("engine", [Unrolled(), Jvp(), FiniteDifference(1e-5)], ids=repr)
@pytest.mark.parametrize("theta", ["all", "centred bank"])
def test_rows_of_several_windows(student, data, stream, theta, engine):
    """Prevents: an influence of windows in place of that of their rows, whose logits are the means of theirs."""

    def in_windows(rows):
        cut = {n: rows[n].reshape(len(rows["index"]), 2, 4) for n in ("input_ids", "attention_mask")}
        cut["attention_mask"][1, 1] = 0  # a row of one window
        return {**rows, **cut}

    net, batch, _, meta = setting(student, data, stream, theta, engine, dropout=0.1)
    batch, meta.stream.rows = in_windows(batch), in_windows(meta.stream.rows)
    found, _, state = influence(meta, net, batch, nn.Linear(2, 2).double())
    held_out = meta.stream.rows if "bank" in theta else meta.stream[0]
    u, _ = reference(net, theta, batch, held_out, state, nn.Linear(2, 2).double(), None)
    tolerance = 1e-3 if isinstance(engine, FiniteDifference) else 1e-6
    assert float(((found - u).norm(dim=1) / u.norm(dim=1)).max()) < tolerance
