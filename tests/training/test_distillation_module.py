from __future__ import annotations

import copy
import functools
import logging

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from rwkd_lightning.bilevel import FiniteDifference, Jvp, Unrolled
from rwkd_lightning.meta import All, Head, HeadWithBank, LastBlock
from rwkd_lightning.terms import AnnealedMSE, CrossEntropy
from rwkd_lightning.training.collapse_alarm import CollapseAlarm
from rwkd_lightning.training.ledger import Ledger, Visit
from rwkd_lightning.training.optim import adamw, linear_schedule
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting import (
    RWKD,
    AnnealingKD,
    ClassificationFeatures,
    EarlierInfluence,
    EarlierWeights,
    FixedAlpha,
    GlobalAlpha,
    LabelsOnly,
    LearningToReweight,
    MetaWeightNet,
    Oracle,
    Permuted,
    PerturbationRWKD,
    Reject,
    Step,
    Together,
    TrilateralGeometry,
    Visits,
    masked,
)
from tests.training.conftest import Rows


def sgd(net, lr=0.1):
    return torch.optim.SGD(net.parameters(), lr=lr)


class Spy(lightning.Callback):
    """Keeps what happens in each training step."""

    def __init__(self):
        self.rates, self.weights, self.moves, self.logged, self.modes = [], [], [], [], []

    def on_train_batch_start(self, trainer, module, *_):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.before = [p.detach().clone() for p in module.student.parameters()]
        self.modes.append((module.student.training, module.teacher.training if module.teacher else None))

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        pairs = zip(module.student.parameters(), self.before, strict=True)
        self.moves.append(float(torch.stack([(a.detach() - b).square().sum() for a, b in pairs]).sum().sqrt()))
        self.weights.append(module.ledger.weights[batch["index"]].clone())
        self.logged.append({k: float(v) for k, v in trainer.callback_metrics.items()})


def flat(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def tgeo():
    method = TrilateralGeometry()
    method.prepare(Rows(32, 1).rows)
    return method


def with_options():
    """Reads all that the ledger has."""
    terms = ("ce", "kd")
    features = Together([ClassificationFeatures(), EarlierInfluence(terms), EarlierWeights(terms), Visits()])
    return RWKD(features, gate=Reject(3.0), smoothing=0.5)


METHODS = {
    "ce": LabelsOnly,
    "kd": FixedAlpha,
    "rwkd": lambda: RWKD(ClassificationFeatures()),
    "rwkd with options": with_options,
    "rwkd_online": PerturbationRWKD,
    "global": GlobalAlpha,
    "permuted": lambda: Permuted(RWKD(ClassificationFeatures())),
    "oracle": Oracle,
    "mwn": MetaWeightNet,
    "l2rw": LearningToReweight,
    "tgeo": tgeo,
}


@pytest.mark.parametrize("name", METHODS)
def test_max_steps_counts_student_steps(module, rows, fit, name):
    """Prevents a run that ends at half its steps because the meta-learner's steps are counted too."""
    net, spy = module(METHODS[name](), train_size=80), Spy()
    trainer = fit(net, rows(80, 1), max_steps=7, max_epochs=-1, callbacks=[spy])
    assert len(spy.moves) == trainer.global_step == net.global_step == 7
    assert all(move > 0 for move in spy.moves)
    assert net.meta is None or net.meta.steps == 7


@pytest.mark.parametrize("theta", [All, LastBlock, Head, HeadWithBank])
@pytest.mark.parametrize("engine", [Unrolled, Jvp, FiniteDifference])
@pytest.mark.parametrize("lookahead", [None, 0.1])
def test_every_meta_step_trains(module, rows, fit, meta_step, theta, engine, lookahead):
    """Prevents a combination of θ, engine and lookahead that runs only outside the loop, or that moves no φ."""
    net = module(meta=meta_step(engine=engine(), theta=theta(), lookahead_lr=lookahead))
    start = copy.deepcopy(net.weighting.state_dict())
    fit(net, rows(32, 1))
    assert all(not torch.equal(v, start[k]) for k, v in net.weighting.state_dict().items())
    assert bool(net.ledger.influence.ne(0).any(1).all())


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.4])
@pytest.mark.parametrize(
    "options,accumulate,steps",
    [({"max_epochs": 5}, 1, 20), ({"max_steps": 7, "max_epochs": -1}, 1, 7), ({"max_epochs": 5}, 3, 20)],
)
def test_schedule(module, rows, fit, warmup, options, accumulate, steps):
    """Prevents a scheduler that is never stepped, one that is stepped per batch, or a wrong length of the ramp."""
    schedule = functools.partial(linear_schedule, warmup=warmup)
    net, spy = module(FixedAlpha(), schedule=schedule, accumulate=accumulate), Spy()
    fit(net, rows(32, 1), callbacks=[spy], **options)
    ramp = max(1, round(warmup * steps)) if warmup else 0
    expected = [(s + 1) / (ramp + 1) if s < ramp else (steps - s) / (steps - ramp) for s in range(steps)]
    assert spy.rates == pytest.approx([1e-2 * x for x in expected])
    assert max(expected) <= 1


@pytest.mark.parametrize("clip", [None, 1e-3])
def test_clipping(module, rows, fit, clip):
    """Prevents a clip that manual optimization ignores: an SGD step at rate 1 is as long as the clipped gradient."""
    net, spy = module(FixedAlpha(), optimizer=functools.partial(sgd, lr=1.0), clip=clip), Spy()
    fit(net, rows(32, 1), callbacks=[spy], max_steps=2)
    assert spy.moves == pytest.approx([1e-3] * 2, rel=1e-3) if clip else min(spy.moves) > 1e-2


class Teacher(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.dropout, self.norm = nn.Linear(6, 2), nn.Dropout(0.5), nn.BatchNorm1d(2)

    def forward(self, batch):
        return {"logits": self.norm(self.dropout(self.layer(batch["x"])))}


def test_teacher(module, rows, fit):
    """Prevents a teacher in training mode (dropout, moving statistics), trained, or in every checkpoint."""
    teacher, spy = Teacher(), Spy()
    before = copy.deepcopy(teacher.state_dict())
    net, data = module(teacher=teacher), rows(32, 1)
    expected = teacher.eval()(data.rows)["logits"].detach()
    del data.rows["teacher_logits"]
    teacher.train()
    seen = []
    observe = net.weighting.observe
    net.weighting.observe = lambda s: (observe(s), seen.append((s.batch["index"], s.batch["teacher_logits"])))
    fit(net, data, callbacks=[spy])
    assert spy.modes == [(True, False)] * 4
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert not any("teacher" in k or "norm" in k for k in net.state_dict())
    assert not any(p.requires_grad for p in teacher.parameters())
    for index, logits in seen:
        torch.testing.assert_close(logits, expected[index])


@pytest.mark.parametrize("name", METHODS)
def test_student_in_evaluation_mode_is_trained_with_dropout(module, student, rows, fit, name):
    """Prevents one method that trains with dropout and another without, from a student that `from_pretrained` gave."""
    net, seen = module(METHODS[name](), net=student(dropout=0.1).eval()), []
    net.student.dropout.register_forward_hook(lambda layer, *_: seen.append(layer.training))
    fit(net, rows(32, 1))
    assert seen.count(True) == 4  # a pass a step; held-out rows are read without dropout


@pytest.mark.parametrize("name", ["kd", "rwkd", "rwkd with options", "rwkd_online", "permuted", "tgeo"])
def test_resumed_run_is_bit_identical(module, student, rows, fit, tmp_path, name):
    """Prevents a resumed run that forgets φ, Adam's moments, the bank, the ledger, the stream or the dropout masks."""

    def build():
        return module(METHODS[name](), net=student(dropout=0.3), schedule=linear_schedule)

    whole, saver = build(), ModelCheckpoint(tmp_path / name, filename="{epoch}", save_top_k=-1)
    fit(whole, rows(32, 1), max_epochs=3, enable_checkpointing=True, callbacks=[saver])
    resumed = build()
    torch.manual_seed(99)
    fit(resumed, rows(32, 1), max_epochs=3, ckpt_path=tmp_path / name / "epoch=0.ckpt")
    a, b = whole.state_dict(), resumed.state_dict()
    assert a.keys() == b.keys()
    assert [k for k in a if not torch.equal(a[k], b[k])] == []
    assert name == "kd" or any("bank" in k for k in a)
    assert name != "tgeo" or {"weighting.means", "weighting.network.4.weight"} <= a.keys()


@pytest.mark.parametrize("share,spoken", [(0.995, 1), (0.9, 0)])
def test_alarm(module, rows, fit, caplog, share, spoken):
    """Prevents a collapse that nobody hears of, a false alarm, and one message a step."""
    weighting = GlobalAlpha(lr=1e-6)
    weighting.logits.data = torch.tensor([share, 1 - share]).log()
    net = module(weighting)
    net.alarm.patience = 5
    with caplog.at_level(logging.WARNING, "rwkd_lightning"):
        fit(net, rows(32, 1), max_epochs=4)
    messages = [r.getMessage() for r in caplog.records if "collapsed" in r.getMessage()]
    assert len(messages) == spoken
    assert not spoken or ("'ce'" in messages[0] and "99.5%" in messages[0])


def test_alarm_counts_consecutive_steps():
    """Prevents an alarm over scattered steps, over fixed totals other than 1, and over a single term."""
    alarm = CollapseAlarm(("ce", "kd"), patience=3)
    bad, good = torch.tensor([[0.0, 2.0]] * 4), torch.tensor([[0.5, 0.5]] * 4)
    assert [alarm(w) is not None for w in (bad, bad, good, bad, bad, bad, bad)] == [False] * 5 + [True, False]
    assert CollapseAlarm(("ce",), patience=1)(torch.ones(4, 1)) is None


@pytest.mark.parametrize(
    "weighting,remedy",
    [
        (lambda: MetaWeightNet(0.995), None),
        (lambda: LearningToReweight(0.995), None),
        (lambda: Permuted(MetaWeightNet(0.995)), None),
        (GlobalAlpha, "lower `weighting.lr` or raise `weighting.entropy`"),
        (tgeo, "lower `weighting.lr` or raise `weighting.entropy`"),
        (
            lambda: Permuted(RWKD(ClassificationFeatures())),
            "lower `weighting.inner.lr` or raise `weighting.inner.entropy`",
        ),
        (PerturbationRWKD, "use `RWKD()`"),
    ],
)
def test_alarm_speaks_of_what_the_method_has(module, weighting, remedy):
    """Prevents an alarm over a fixed α, which nothing learned, and advice to set keys that the method does not have."""
    alarm = module(weighting()).alarm
    alarm.patience = 1
    message = alarm(torch.tensor([[0.005, 0.995]] * 4))
    assert (message is None) if remedy is None else ("collapsed" in message and remedy in message)


def test_fixed_alpha_is_no_collapse(module, rows, fit, caplog):
    """Prevents the same, in training."""
    net = module(MetaWeightNet(0.995))
    net.alarm.patience = 2
    with caplog.at_level(logging.WARNING, "rwkd_lightning"):
        fit(net, rows(32, 1))
    assert float(net.ledger.weights[:, 0].max()) < 0.01 * float(net.ledger.weights[:, 1].min())
    assert not [r for r in caplog.records if "weights have" in r.getMessage()]


def test_alarm_where_rows_have_totals_of_their_own():
    """Prevents an alarm over samples that are told apart by how much they weigh, and silence over weights that are all
    gone.
    """

    def said(*rows):
        return CollapseAlarm(("ce", "kd"), "REMEDY", patience=1)(torch.tensor(rows))

    assert said([1.0, 0.0], [0.2, 0.0], [0.7, 0.0]) is None
    assert said([1e-6, 0.0], [1e-6, 0.0], [0.5, 0.5]) is None
    assert "collapsed: 100.0% of all weight has gone to 'ce'" in said([1.5, 0.0], [1.5, 0.0])
    for gone in ([[0.0, 0.0]] * 3, [[4e-3, 4e-3]] * 3, [[0.0, 0.0]] * 200 + [[1.0, 0.5]]):
        assert "vanished" in said(*gone) and said(*gone).endswith("; REMEDY")


def test_new_or_current_weights(module, rows, fit):
    """Prevents weights of the wrong φ: `new` uses the φ just updated, `current` the one before; φ moves alike."""
    seen, phis = {}, {}
    for which in ("new", "current"):
        net, spy = module(GlobalAlpha(lr=0.1), updated_weights=which), Spy()
        fit(net, rows(32, 1), callbacks=[spy], max_steps=1)
        seen[which], phis[which] = spy.weights[0][0], net.weighting.logits.detach().softmax(0)
    assert torch.equal(seen["current"], torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(seen["new"], phis["new"])
    torch.testing.assert_close(phis["new"], phis["current"])
    # Adam's first step is ±lr in each of the two logits
    assert sorted(phis["new"].tolist()) == pytest.approx(torch.tensor([-0.1, 0.1]).softmax(0).tolist(), rel=1e-4)


def test_the_step_by_hand(module, student, rows, fit):
    """Prevents a loss over other weights than those reported: one SGD step of mean_i Σ_k w_ik·l_ik, w detached."""
    data, twin = rows(8, 1), student()
    net, spy = module(PerturbationRWKD(), net=student(), optimizer=sgd, clip=None), Spy()
    fit(net, data, callbacks=[spy])
    losses = torch.stack([term(twin(data.rows), data.rows) for term in net.terms], 1)
    (spy.weights[0] * losses).sum(1).mean().backward()
    expected = torch.cat([(p - 0.1 * p.grad).detach().flatten() for p in twin.parameters()])
    torch.testing.assert_close(flat(net.student), expected)
    torch.testing.assert_close(net.ledger.losses[:8], losses.detach())
    assert spy.logged[0]["weight/kd"] == pytest.approx(float(spy.weights[0][:, 1].mean()))
    assert spy.logged[0]["weight_spread/kd"] == pytest.approx(float(spy.weights[0][:, 1].std(correction=0)))
    assert spy.logged[0]["loss"] == pytest.approx(float((spy.weights[0] * losses).sum(1).mean().detach()))


def test_every(module, rows, fit, meta_step):
    """Prevents meta steps between the due ones, or a φ that drifts on old gradients."""
    net, spy = module(GlobalAlpha(lr=0.1), meta=meta_step(every=2)), Spy()
    fit(net, rows(32, 1), callbacks=[spy])
    first = [w[0, 0].item() for w in spy.weights]
    assert first[0] == first[1] != first[2] == first[3]
    assert net.meta.steps == 2


@pytest.mark.parametrize("name", ["rwkd", "rwkd_online", "global", "l2rw", "tgeo"])
def test_start(module, rows, fit, meta_step, name):
    """Prevents a φ that commits before the student knows anything, and weights of 0 until the first meta step."""
    net, spy = module(METHODS[name](), meta=meta_step(start=0.5)), Spy()
    fit(net, rows(32, 1), callbacks=[spy], max_epochs=2)
    uniform = [bool((w == 0.5).all()) for w in spy.weights]
    assert uniform == [True] * 4 + [False] * 4
    assert net.meta.steps == 4


class Recorded(AnnealedMSE):
    """Keeps the progress of every call."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, outputs, batch):
        self.seen.append(float(batch["progress"]))
        return super().forward(outputs, batch)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_annealing_kd(module, rows, fit, accumulate):
    """Prevents a term whose progress stands still or counts batches, and stages that are split elsewhere than at ¾."""
    term = Recorded()
    net, spy = module(AnnealingKD(), terms=[CrossEntropy(), term], accumulate=accumulate), Spy()
    fit(net, rows(32, 1), batch_size=4, callbacks=[spy])
    assert term.seen == [b / 8 for b in range(8) for _ in range(accumulate)]
    assert [w[0].tolist() for w in spy.weights] == [[0.0, 1.0]] * 6 + [[1.0, 0.0]] * 2


@pytest.mark.parametrize("engine", [Unrolled, Jvp, FiniteDifference])
def test_progress_in_the_meta_step(module, rows, fit, meta_step, engine):
    """Prevents passes of the meta step in which a term that changes with the training is missing or at another time."""
    term = Recorded()
    net = module(
        GlobalAlpha(("ce", "annealed_mse")), terms=[CrossEntropy(), term], meta=meta_step(engine=engine(), theta=All())
    )
    fit(net, rows(32, 1))
    assert len(term.seen) == 8 and term.seen == [x for b in range(4) for x in [b / 4] * 2]
    assert bool(net.ledger.influence.ne(0).all())


def test_hidden_label(module, rows, fit):
    """Prevents a row without a label from breaking the step or from weighing on cross-entropy."""
    data = rows(32, 1)
    data.rows["labels"][[3, 20]] = -1
    net = module()
    fit(net, data)
    torch.testing.assert_close(net.ledger.weights[[3, 20]], torch.tensor([[0.0, 1.0]] * 2))
    assert bool(flat(net.student).isfinite().all())


@pytest.mark.parametrize(
    "options,said",
    [
        ({"weighting": PerturbationRWKD(), "every": 2}, "`every=2`"),
        ({"weighting": LearningToReweight(), "every": 2}, "`every=2` with weighting=l2rw"),
        ({"accumulate": 0}, "`accumulate=0`"),
        ({"clip": 0.0}, "`clip=0.0`.*`clip=None`"),
        ({"updated_weights": "newest"}, "newest"),
        ({"meta": None}, "needs a meta step"),
    ],
)
def test_refused(module, meta_step, options, said):
    """Prevents combinations that mean nothing from training anyway; the message names the value."""
    if "every" in options:
        options = {**options, "meta": meta_step(every=options["every"])}
        del options["every"]
    with pytest.raises(UserError, match=said):
        module(**options)


@pytest.mark.parametrize("warmup", [1.0, -0.1])
@pytest.mark.parametrize("lr,decay", [(1e-3, 0.0)])
def test_bad_optimizer_values(student, warmup, lr, decay):
    """Prevents a rate that never comes down from its ramp, or no training at all."""
    with pytest.raises(UserError, match=str(warmup)):
        linear_schedule(adamw(student(), lr, decay), 10, warmup)
    with pytest.raises(UserError, match="`lr` is 0"):
        adamw(student(), 0.0)
    with pytest.raises(UserError, match="`weight_decay` is -1"):
        adamw(student(), lr, -1.0)


def test_no_decay_on_biases(student):
    """Prevents weight decay on biases and norms, and parameters left out of the optimizer."""
    groups = adamw(student(), 1e-3, 0.1).param_groups
    assert {(g["weight_decay"], p.ndim) for g in groups for p in g["params"]} == {(0.1, 2), (0.0, 1)}
    assert sum(len(g["params"]) for g in groups) == 4


def test_ledger_by_hand():
    """Prevents a ledger of raw u, of sums in place of means in the history, or of the wrong rows; and a weight, a loss
    or an influence of 0 that nobody has given.
    """
    ledger = Ledger(5, ("ce", "kd"))
    index = torch.tensor([4, 1])
    for u in ([[1.0, -3.0], [2.0, 2.0]], [[10.0, 10.0], [30.0, -30.0]]):
        valid = torch.tensor([[True, True], [False, True]])  # row 1 has no label
        step = Step(torch.tensor([[1.0, 2.0], [0.0, 4.0]]), valid, ledger.terms, {}, {"index": index},
                    influence=torch.tensor(u))  # fmt: skip
        ledger.record(Visit.of(step), torch.tensor([[0.1, 0.9], [0.2, 0.8]]))
    history = ledger.history(torch.tensor([1, 0]))
    assert history.visits.tolist() == [2, 0]
    torch.testing.assert_close(history.influence, torch.tensor([[(1 + 1.5) / 2, (1 - 1.5) / 2], [0.0, 0.0]]))
    torch.testing.assert_close(history.weights, torch.tensor([[0.2, 0.8], [0.0, 0.0]]))
    without = Step(torch.tensor([[5.0, 6.0]]), torch.ones(1, 2) > 0, ledger.terms, {}, {"index": torch.tensor([2])})
    ledger.record(Visit.of(without), torch.tensor([[0.0, 1.0]]))  # no meta step
    columns, nan = ledger.columns(), torch.nan
    assert columns["visits"].tolist() == [0, 2, 1, 0, 2] and columns["visits"].dtype == torch.int32
    for name, expected in {
        "influence_kd": [nan, -0.5, nan, nan, -1.5 + 0.5],
        "influence_ce": [nan, nan, nan, nan, 0.5 + 0.5],
        "loss_kd": [nan, 4, 6, nan, 2],
        "loss_ce": [nan, nan, 5, nan, 1],
        "w_ce": [nan, nan, 0, nan, 0.1],
        "w_kd": [nan, 0.8, 1, nan, 0.9],
    }.items():
        torch.testing.assert_close(columns[name], torch.tensor(expected), equal_nan=True)


def test_a_ledger_of_before_the_table():
    """Prevents an earlier checkpoint that cannot be resumed, or whose parts come to lie in each other's columns."""
    g = torch.Generator().manual_seed(0)
    before = {f"ledger.{name}": torch.rand(3, 2, generator=g) for name in ("weights", "losses", "influence")}
    before["ledger.valid"] = torch.tensor([[True, False], [True, True], [False, False]])
    before["ledger.visits"] = torch.tensor([3, 2, 0], dtype=torch.int32)
    before["ledger.meta_visits"] = torch.tensor([1.0, 2.0, 0.0])
    made = nn.ModuleDict({"ledger": Ledger(Ledger.size_saved(before, "ledger."), ("ce", "kd"))})
    made.load_state_dict(dict(before))
    for name, value in before.items():
        assert torch.equal(getattr(made["ledger"], name.removeprefix("ledger.")).float(), value.float()), name
    assert Ledger.size_saved(made.state_dict(), "ledger.") == 3


def test_rwkd_finds_the_corrupted_teacher(module, rows, fit):
    """Prevents a sign error anywhere in the chain: rows whose teacher is wrong must end with less weight on it."""
    data = rows(256, 1, corrupted=0.5)
    net = module(RWKD(ClassificationFeatures(), lr=1e-2), 256)
    fit(net, data, 16, max_epochs=6)
    kd, wrong = net.ledger.weights[:, 1], data.rows["teacher_corrupted"]
    assert float(kd[wrong].mean()) < float(kd[~wrong].mean()) - 0.1
    u = net.ledger.influence[:, 1]
    assert float(u[wrong].mean()) < 0 < float(u[~wrong].mean())
    assert masked(net.ledger.weights, torch.ones(256, 2) > 0).sum(1).tolist() == pytest.approx([1.0] * 256, rel=1e-5)
