"""Students that are compiled, checkpointed or otherwise unusual: the influence of the bare one, or a word of why
not.
"""

from __future__ import annotations

import copy
import functools

import pytest
import torch
import transformers
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from rwkd_lightning.bilevel import FiniteDifference, Jvp, Unrolled
from rwkd_lightning.meta import All, Head, HeadWithBank, LastBlock, MetaStep
from rwkd_lightning.systems.text.models.lora import Lora, adapt
from rwkd_lightning.terms import CrossEntropy, DistillationKL
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.training.optim import adamw
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting import RWKD, ClassificationFeatures
from tests.meta.conftest import Stream, bert, separable

engines = pytest.mark.parametrize("engine", [FiniteDifference, Jvp, Unrolled])


def rows(size, seed):
    found = separable(size, seed)
    return [{k: v[i] for k, v in found.items()} for i in range(size)]


@pytest.fixture
def influences(fit, monkeypatch):
    """u of the two meta steps of a training in float64 on sixteen rows, the student made ready by ``change``."""

    def taken(change, engine, theta, lookahead=None):
        torch.manual_seed(0)
        meta = MetaStep(engine(), theta(), [CrossEntropy()], Stream(separable(20, 7), 5), lookahead_lr=lookahead)
        net = DistillationModule(
            change(copy.deepcopy(bert())),
            [CrossEntropy(), DistillationKL(2.0)],
            RWKD(ClassificationFeatures()),
            functools.partial(adamw, lr=1e-3),
            16,
            meta=meta,
        )
        seen, real = [], meta.influence
        monkeypatch.setattr(meta, "influence", lambda *a: seen.append(real(*a)) or seen[-1])
        fit(net, rows(16, 1), precision="64-true")
        return torch.stack(seen)

    return taken


@pytest.fixture(scope="module")
def plain():
    """The bare student's, by engine and restriction."""
    return {}


def compiled_inside(student):
    student.network = torch.compile(student.network, backend="eager")
    return student


def compiled_in_place(student):
    student.compile(backend="eager")
    return student


def compiled_head(student):
    student.network.classifier = torch.compile(student.network.classifier, backend="eager")
    return student


COMPILED = {
    "student": lambda s: torch.compile(s, backend="eager"),
    "aot": lambda s: torch.compile(s, backend="aot_eager"),
    "network": compiled_inside,
    "in place": compiled_in_place,
    "head": compiled_head,
}


@pytest.mark.parametrize("theta", [All, LastBlock, Head, HeadWithBank])
@pytest.mark.parametrize("how", COMPILED)
def test_compiled(influences, plain, how, theta):
    """Prevents: a compiled student, whose parameters have other names, that stops in its first meta step, or has
    another u.
    """
    engine = FiniteDifference if theta in (All, LastBlock) else Jvp
    if theta not in plain:
        plain[theta] = influences(lambda s: s, engine, theta)
    torch.testing.assert_close(influences(COMPILED[how], engine, theta), plain[theta], rtol=1e-6, atol=1e-9)


@engines
def test_compiled_with_every_engine(influences, engine):
    """Prevents: engines that go through the bare student alone."""
    change = COMPILED["student"]
    if engine is Jvp:  # whether it can be traced there depends on what was compiled before
        for how in ("student", "in place", "network", "head"):
            with pytest.raises(UserError, match=r"compiled student; use `engine=FiniteDifference\(\)`"):
                influences(COMPILED[how], engine, LastBlock)
        return
    torch.testing.assert_close(
        influences(change, engine, LastBlock), influences(lambda s: s, engine, LastBlock), rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("how", ["function", "method"])
def test_compiled_module(module, fit, rows, monkeypatch, how):
    """Prevents: an assertion of the compiler from inside the loader, for a whole module given to the Trainer."""
    net = module()
    if how == "method":
        net.compile(backend="eager")
    else:
        net = torch.compile(net, backend="eager")
    with pytest.raises(UserError, match=r"compile the student alone: DistillationModule\(torch.compile\(student\)"):
        fit(net, rows(32, 1))


def checkpointed(student, reentrant):
    student.network.gradient_checkpointing_enable({"use_reentrant": reentrant})
    return student


@pytest.mark.parametrize("theta", [All, LastBlock])
@pytest.mark.parametrize(
    ("engine", "reentrant", "lookahead"),
    [
        (FiniteDifference, True, None),
        (FiniteDifference, False, None),
        (FiniteDifference, False, 0.05),
        (Unrolled, False, None),
        (Unrolled, False, 0.05),
    ],
)
def test_checkpointing(influences, engine, reentrant, lookahead, theta):
    """Prevents: another u, by other dropout masks or lost gradients, from a student that saves memory."""
    without = influences(lambda s: s, engine, theta, lookahead)
    saving = influences(functools.partial(checkpointed, reentrant=reentrant), engine, theta, lookahead)
    torch.testing.assert_close(saving, without, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("theta", [All, LastBlock])
@pytest.mark.parametrize(
    ("engine", "reentrant", "lookahead", "message"),
    [
        pytest.param(
            Jvp,
            False,
            None,
            r"`engine=jvp` cannot go .* gradient checkpointing.*; turn that off .*`engine=FiniteDifference\(\)`$",
            marks=pytest.mark.skipif(transformers.__version__.startswith("4."), reason="goes through there"),
        ),
        (
            Jvp,
            True,
            None,
            r"`engine=jvp` cannot go .* gradient checkpointing.*; turn that off .*`engine=FiniteDifference\(\)`$",
        ),
        (
            Unrolled,
            True,
            None,
            r"reentrant, and `engine=unrolled` .* use_reentrant=False, or use `engine=FiniteDifference\(\)`$",
        ),
        (Unrolled, True, 0.1, r"reentrant, .* or use `engine=FiniteDifference\(\)` `lookahead_lr=None`$"),
        (FiniteDifference, True, 0.1, r"reentrant, and `lookahead_lr=0.1` .* or use `lookahead_lr=None`$"),
    ],
)
def test_checkpointing_refused(influences, engine, reentrant, lookahead, message, theta):
    """Prevents: a traceback in the first meta step; and a last block whose gradient reentrant checkpoints lose in
    silence.
    """
    with pytest.raises(UserError, match=message):
        influences(functools.partial(checkpointed, reentrant=reentrant), engine, theta, lookahead)


class Recurrent(nn.Module):
    """An LSTM and a head, in float32."""

    def __init__(self):
        super().__init__()
        self.words, self.lstm, self.head = nn.Embedding(100, 8), nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, batch):
        features = self.lstm(self.words(batch["input_ids"]))[0][:, -1]
        return {"logits": self.head(features), "features": features}


class OwnNoise(nn.Module):
    """Wraps a student; multiplies its logits by numbers that come from a generator of its own."""

    def __init__(self, student):
        super().__init__()
        self.student, self.generator = student, torch.Generator()

    def forward(self, batch):
        logits = self.student(batch)["logits"]
        return {"logits": logits * (1 + torch.rand(logits.shape, generator=self.generator))}


def normed(norm):
    def change(student):
        norm(student.network.bert.encoder.layer[1].output.dense)
        return student

    return change


REFUSED = {
    "LSTM": (
        lambda _: Recurrent(),
        Jvp,
        r"`engine=jvp` cannot go through this student .*; use `engine=FiniteDifference\(\)`",
    ),
    "weight norm": (normed(weight_norm), Jvp, r"`engine=jvp` cannot go .*; use `engine=FiniteDifference\(\)`"),
    "spectral norm": (
        normed(spectral_norm),
        FiniteDifference,
        r"_u changes with every pass .*; use `theta=HeadWithBank\(\)` or `theta=Head\(\)`",
    ),
    "own generator": (OwnNoise, FiniteDifference, "logits differ by .* same state .*; draw from torch's own generator"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_the_first_step(module, fit, case):
    """Prevents: a training that stops in its first meta step, a fifth of the way on, or whose u is the noise of two
    passes.
    """
    change, engine, message = REFUSED[case]
    student = change(bert(dtype=torch.float32))
    net = module(
        net=student, train_size=16, meta=MetaStep(engine(), All(), [CrossEntropy()], Stream(separable(20, 7), 5))
    )
    with pytest.raises(UserError, match=message) as told:
        fit(net, rows(16, 1))
    assert "\n" not in str(told.value) and net.global_step == 0


def test_an_lstm_works_as_told(module, fit):
    """Prevents: a remedy that is none."""
    net = module(
        net=Recurrent(),
        train_size=16,
        terms=[CrossEntropy(), DistillationKL(2.0)],
        meta=MetaStep(FiniteDifference(), All(), [CrossEntropy()], Stream(separable(20, 7), 5)),
    )
    fit(net, rows(16, 1))
    assert net.meta.steps == 2


def test_rehearsal_leaves_no_trace(module, meta_step, fit, rows, monkeypatch):
    """Prevents: a run that goes on otherwise for having been tried: other dropout masks, statistics or held-out
    rows.
    """
    ends = []
    for tried in (True, False):
        if not tried:
            monkeypatch.setattr("rwkd_lightning.training.hooks.rehearse", lambda *_: None)
        torch.manual_seed(3)
        student = Normed()
        net = module(net=student, meta=meta_step(engine=FiniteDifference(), theta=All()))
        fit(net, rows(32, 1))
        ends.append({**net.state_dict(), "random": torch.get_rng_state()})
    assert ends[0].keys() == ends[1].keys()
    for name, value in ends[0].items():
        assert torch.equal(value, ends[1][name]), name


class Normed(nn.Module):
    """Batch normalisation, dropout and a head."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3))
        self.head = nn.Linear(8, 2)

    def forward(self, batch):
        features = self.body(batch["x"])
        return {"logits": self.head(features), "features": features}


class Spread(nn.Module):
    def __init__(self, student):
        super().__init__()
        self.inner = nn.DataParallel(student)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (nn.DataParallel, "wrapped in DataParallel; give it without, and use `strategy=ddp`"),
        (Spread, r"the student \(inner\) is wrapped in DataParallel"),
    ],
)
def test_spread_over_devices(module, student, change, message):
    """Prevents: PyTorch's traceback in the first meta step, for a student that is spread over devices by another
    wrapper.
    """
    with pytest.raises(UserError, match=message):
        module(net=change(student()))


def test_inference_tensors(module, student):
    """Prevents: a traceback about inference tensors from the first backward."""
    with torch.inference_mode():
        net = student()
    with pytest.raises(UserError, match="made under torch.inference_mode"):
        module(net=net)


def test_teacher_in_inference_mode(module, student, fit, rows):
    """Prevents: the same of a teacher whose own forward is decorated with it."""

    class Frozen(nn.Module):
        @torch.inference_mode()
        def forward(self, batch):
            return {"logits": batch["x"][:, :2].clone()}

    data = rows(32, 1)
    del data.rows["teacher_logits"]
    assert fit(module(teacher=Frozen()), data).global_step == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.head.requires_grad_(False), r"frozen here; use `theta=All\(\)` or `theta=LastBlock\(\)`"),
        (lambda s: weight_norm(s.head), "computed from other parameters here"),
        (
            lambda s: setattr(s, "head", nn.Sequential(s.head)),
            r"its attribute head, is linear; .* use `theta=All\(\)` or `theta=LastBlock\(\)`",
        ),
    ],
)
@pytest.mark.parametrize("theta", [Head, HeadWithBank])
def test_heads_that_are_not_trained_as_they_are(module, student, meta_step, change, message, theta):
    """Prevents: an influence by a weight that the student's optimizer never moves, or not directly."""
    net = student()
    change(net)
    with pytest.raises(UserError, match=message):
        module(net=net, meta=meta_step(theta=theta()))


def test_last_block_frozen(module, meta_step):
    """Prevents: θ that is empty, so that no term of any sample has an influence."""
    net = bert(dtype=torch.float32)
    net.network.bert.encoder.layer[1].requires_grad_(False)
    net.network.bert.pooler.requires_grad_(False)
    net.network.classifier.requires_grad_(False)
    with pytest.raises(UserError, match=r"from the student's last block on is frozen; use `theta=All\(\)`"):
        module(net=net, meta=meta_step(theta=LastBlock(), engine=FiniteDifference()))


def test_shared_and_frozen_parameters(influences):
    """Prevents: tied or frozen parameters counted twice, left out of the pass, or moved; the reference is the double
    backward.
    """

    def change(student):
        layers = student.network.bert.encoder.layer
        layers[0].attention.self.query.weight = layers[1].attention.self.query.weight
        layers[0].output.requires_grad_(False)
        return student

    for theta in (All, LastBlock):
        exact = influences(change, Unrolled, theta)
        torch.testing.assert_close(influences(change, Jvp, theta), exact)
        torch.testing.assert_close(influences(change, FiniteDifference, theta), exact, rtol=1e-2, atol=1e-3)


def low_rank(student):
    """The student with an update of rank 2, dropped out, in each linear layer of its frozen body."""
    adapt(student, Lora(2, 4, 0.1))
    return student.double()


def checkpointed_low_rank(student):
    low_rank(student).network.gradient_checkpointing_enable({"use_reentrant": False})
    return student


def test_low_rank_updates_compiled_and_checkpointed(influences):
    """Prevents: another influence of a LoRA student once it is compiled, or once its activations are computed again."""
    pytest.importorskip("peft")
    torch._dynamo.reset()
    plain = influences(low_rank, FiniteDifference, All)
    assert float(plain.abs().max()) > 0
    for change in (lambda s: COMPILED["student"](low_rank(s)), checkpointed_low_rank):
        torch.testing.assert_close(influences(change, FiniteDifference, All), plain, rtol=1e-6, atol=1e-9)
