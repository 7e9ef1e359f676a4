"""A batch in parts: the student step, φ's step, the weights and the record of one pass over all of it."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import nn

from rwkd_lightning.bilevel import FiniteDifference, Unrolled
from rwkd_lightning.meta import All, Head, HeadWithBank, LastBlock
from rwkd_lightning.systems.text.terms import ValueRelation
from rwkd_lightning.terms import AnnealedMSE, CrossEntropy, DistillationKL, stack
from rwkd_lightning.training.batch_passes import split
from rwkd_lightning.training.optim import linear_schedule
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting import (
    RWKD,
    AdaptiveMixing,
    AnnealingKD,
    ClassificationFeatures,
    DynamicWeightAverage,
    FixedAlpha,
    GlobalAlpha,
    GradNorm,
    LabelsOnly,
    LearningToReweight,
    MetaWeightNet,
    Oracle,
    Permuted,
    PerturbationRWKD,
    TeacherAnnealing,
    TeacherConfidence,
    Uncertainty,
    WeightedSoftLabels,
)
from tests.training.conftest import Student
from tests.training.test_distillation_module import tgeo, with_options
from tests.training.test_module_terms_inside import Inner, Wide, hidden_term

sgd = functools.partial(torch.optim.SGD, lr=0.5, momentum=0.9)


def rwkd(terms=("ce", "kd")):
    return RWKD(ClassificationFeatures(), terms)


def amal():
    method = AdaptiveMixing()
    method.prepare({"labels": torch.zeros(76)})
    return method


# method; whether its weights are known part by part, so that one pass does; θ, engine and options of the meta step
METHODS = {
    "ce": (LabelsOnly, True, {}),
    "kd": (FixedAlpha, True, {}),
    "annealed": (TeacherAnnealing, True, {}),
    "wls": (WeightedSoftLabels, True, {}),
    "teacher_confidence": (TeacherConfidence, True, {}),
    "oracle": (Oracle, True, {}),
    "dwa": (lambda: DynamicWeightAverage(window=2), True, {}),
    "uncertainty": (lambda: Uncertainty(lr=0.1), False, {}),
    "permuted kd": (lambda: Permuted(FixedAlpha(0.3)), False, {}),
    "rwkd, bank": (rwkd, False, {"theta": HeadWithBank()}),
    "rwkd, head": (rwkd, False, {"theta": Head()}),
    "rwkd, centred bank": (rwkd, False, {"theta": HeadWithBank(centre=True)}),
    "rwkd, lookahead": (rwkd, False, {"theta": HeadWithBank(), "lookahead_lr": 0.5}),
    "rwkd, finite difference": (rwkd, False, {"engine": FiniteDifference(1e-4, central=True)}),
    "rwkd, unrolled": (rwkd, False, {"theta": Head(), "engine": Unrolled(), "lookahead_lr": 0.5}),
    "rwkd, every second step": (rwkd, False, {"every": 2}),
    "rwkd, late": (rwkd, False, {"start": 0.4}),
    "rwkd, its options": (with_options, False, {}),
    "rwkd_online": (PerturbationRWKD, False, {}),
    "global": (lambda: GlobalAlpha(lr=0.1), False, {}),
    "permuted": (lambda: Permuted(rwkd()), False, {}),
    "mwn": (MetaWeightNet, False, {}),
    "l2rw": (LearningToReweight, False, {}),
    "amal": (amal, False, {}),
    "amal, lookahead": (amal, False, {"theta": HeadWithBank(), "lookahead_lr": 0.5}),
    "tgeo": (tgeo, False, {}),
}


class Counting(Student):
    """Notes how many rows each pass in training mode has, and whether it has a graph."""

    def __init__(self, **options):
        super().__init__(**options)
        self.passes = []

    def forward(self, batch):
        if self.training:
            self.passes.append((len(batch["x"]), torch.is_grad_enabled()))
        return super().forward(batch)


def counting(**options):
    torch.manual_seed(0)
    return Counting(**options)


def assert_same(one, other, tolerance=1e-10):
    """Student, φ, bank, ledger, the method's buffers: everything that a checkpoint holds."""
    a, b = one.state_dict(), other.state_dict()
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(
            a[name], b[name], rtol=tolerance, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}"
        )


def sizes(rows, parts):
    """Rows of each part, by arithmetic of its own."""
    parts = min(rows, parts)
    return [math.ceil((rows - i) / parts) for i in range(parts)]


@pytest.mark.parametrize("updated_weights", ["new", "current"])
@pytest.mark.parametrize("name", METHODS)
def test_parts_equal_the_whole(module, meta_step, rows, fit, name, updated_weights):
    """Prevents: u, φ's step, a statistic or a weight that is a part's only; parts of a last, smaller batch that weigh
    as much as those of a full one; a method that pays for a second pass without need, or needs one and does not get it.
    """
    make, by_sample, meta = METHODS[name]
    whole = None
    for accumulate in (1, 4, 5):
        torch.manual_seed(1)
        weighting = make()
        options = {"meta": meta_step(**meta)} if weighting.needs_influence else {}
        net = module(
            weighting,
            76,
            counting(),
            accumulate=accumulate,
            optimizer=lambda m: sgd(m.parameters()),
            clip=0.5,
            schedule=linear_schedule,
            updated_weights=updated_weights,
            **options,
        )
        data = rows(76, 1, corrupted=0.4)
        data.rows["labels"][[3, 20, 70]] = -1
        trainer = fit(net, data, 32, max_epochs=3, precision="64-true")
        assert trainer.global_step == 9
        passes, net.student.passes = net.student.passes, []
        if accumulate == 1:
            whole = net
            continue
        assert_same(net, whole)
        expected = [(n, True) for n in sizes(32, accumulate) * 2 + sizes(12, accumulate)] * 3
        assert [p for p in passes if p[1]] == expected  # with a graph only a part at a time
        assert len(passes) == len(expected) * (1 if by_sample else 2)


@pytest.mark.parametrize(
    "make", [FixedAlpha, lambda: Permuted(FixedAlpha(0.3)), rwkd], ids=["kd", "permuted kd", "rwkd"]
)
def test_terms_with_parameters_and_a_teacher_along(module, rows, fit, make):
    """Prevents a projection trained on one part, a teacher asked again for rows that it has answered, and answers that
    the method and the meta step do not get.
    """
    ends = []
    for accumulate in (1, 4):
        teacher, weighting, seen = Wide(1).double(), make(), []
        terms = [CrossEntropy(), DistillationKL(2.0)] + ([] if isinstance(weighting, RWKD) else [hidden_term(16)])
        net = module(
            weighting,
            40,
            Inner(0),
            terms,
            teacher=teacher,
            accumulate=accumulate,
            optimizer=lambda m: sgd(m.parameters()),
        )
        observe = weighting.observe
        weighting.observe = lambda step, observe=observe, seen=seen: (
            observe(step),
            seen.append(step.batch["teacher_logits"]),
        )
        data = rows(40, 1)
        del data.rows["teacher_logits"]
        fit(net, data, 16, precision="64-true")
        assert teacher.calls == 3 * accumulate
        torch.testing.assert_close(torch.cat(seen), teacher({"x": data.rows["x"]})["logits"].detach())
        ends.append(net)
    assert_same(*ends)


class Values(Student):
    """Gives out values (B, 1, T, H) too, of four tokens."""

    def forward(self, batch):
        outputs = super().forward(batch)
        return {**outputs, "values": outputs["features"].view(-1, 1, 4, 2)}


def test_terms_over_tokens(module, rows, fit):
    """Prevents a term over tokens that reads another part's rows."""
    ends = []
    for accumulate in (1, 3):
        torch.manual_seed(0)
        student, teacher = Values(), Values()
        data = rows(24, 1)
        data.rows["attention_mask"] = torch.ones(24, 4, dtype=torch.long)
        data.rows["attention_mask"][::3, 3] = 0
        net = module(
            Uncertainty(("ce", "kd", "value_relation")),
            24,
            student,
            [CrossEntropy(), DistillationKL(2.0), ValueRelation(heads=2)],
            teacher=teacher.double(),
            accumulate=accumulate,
            optimizer=lambda m: sgd(m.parameters()),
        )
        fit(net, data, 12, precision="64-true")
        ends.append(net)
    assert float(ends[0].ledger.losses[:, 2].min()) > 0
    assert_same(*ends)


def test_annealed_target(module, rows, fit):
    """Prevents a progress that is cut into parts, or counted by them."""
    ends = []
    for accumulate in (1, 4):
        net = module(
            AnnealingKD(),
            32,
            terms=[CrossEntropy(), AnnealedMSE()],
            accumulate=accumulate,
            optimizer=lambda m: sgd(m.parameters()),
        )
        fit(net, rows(32, 1), 8, precision="64-true")
        ends.append(net)
    assert_same(*ends)


@pytest.mark.parametrize("name", ["kd", "permuted kd", "rwkd, bank", "uncertainty"])
def test_dropout_masks_by_hand(module, rows, fit, name):
    """Prevents a second pass under other masks than those that the weights were computed under, and a generator that
    has run on.

    By hand: the parts one after the other, one pass, all graphs kept; the weights are those on record.
    """
    data, parts = rows(30, 1), [8, 8, 7, 7]
    net = module(
        METHODS[name][0](),
        30,
        counting(dropout=0.5),
        accumulate=4,
        clip=None,
        optimizer=lambda m: torch.optim.SGD(m.parameters(), lr=0.5),
    )
    twin = counting(dropout=0.5).double()
    torch.manual_seed(3)
    fit(net, data, 30, precision="64-true")
    ended = torch.get_rng_state()

    torch.manual_seed(3)
    whole = {k: v.double() if v.is_floating_point() else v for k, v in data.rows.items()}
    cut = [{k: v[start : start + n] for k, v in whole.items()} for start, n in zip([0, 8, 16, 23], parts, strict=True)]
    losses = torch.cat([stack(net.loss_terms, twin(part), part) for part in cut])
    assert torch.equal(torch.get_rng_state(), ended)
    torch.testing.assert_close(net.ledger.losses, losses.detach(), rtol=1e-10, atol=1e-12)
    (net.ledger.weights * losses).sum(1).mean().backward()
    for p, q in zip(net.student.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.detach(), (q - 0.5 * q.grad).detach(), rtol=1e-10, atol=1e-12)
        assert float(q.grad.abs().max()) > 1e-3


@pytest.mark.parametrize("name", ["kd", "rwkd, bank"])
def test_under_autocast(module, rows, fit, name):
    """Prevents a second pass that lets no gradient through (half-precision copies of the weights from the first), or
    one in another precision.
    """
    moves = []
    for accumulate in (1, 4):
        net = module(
            METHODS[name][0](),
            32,
            counting(),
            accumulate=accumulate,
            clip=None,
            optimizer=lambda m: torch.optim.SGD(m.parameters(), lr=1.0),
        )
        start = [p.detach().clone() for p in net.student.parameters()]
        fit(net, rows(32, 1), 32, precision="bf16-mixed")
        moves.append([p.detach() - q for p, q in zip(net.student.parameters(), start, strict=True)])
    for one, other in zip(*moves, strict=True):
        assert float((one - other).norm() / one.norm()) < 0.01  # measured: 0.003


def test_split_by_hand():
    """Prevents lost, doubled or reordered rows, empty parts, and a scalar that is cut."""
    batch = {"index": torch.arange(11), "x": torch.arange(22).view(11, 2), "progress": torch.tensor(0.5)}
    parts = split(batch, 4)
    assert [len(p["index"]) for p in parts] == [3, 3, 3, 2] and all(float(p["progress"]) == 0.5 for p in parts)
    assert all(torch.equal(torch.cat([p[k] for p in parts]), batch[k]) for k in ("index", "x"))
    assert [len(p["index"]) for p in split({"index": torch.arange(3)}, 8)] == [1, 1, 1]
    assert split(batch, 1)[0] is batch


@pytest.mark.parametrize("theta", [All, LastBlock])
def test_meta_steps_over_the_whole_student_are_refused(module, meta_step, theta):
    """Prevents a meta step that runs the student on all parts at once, for which accumulation was to make no room."""
    with pytest.raises(UserError, match=rf"`accumulate=4` with `theta={theta()!r}`.*use `theta=HeadWithBank\(\)`"):
        module(meta=meta_step(theta=theta()), accumulate=4)


def test_gradnorm_is_refused(module):
    """Prevents gradient norms of one part in place of the batch's."""
    with pytest.raises(UserError, match="`accumulate=4` with weighting=gradnorm.*use `DynamicWeightAverage"):
        module(GradNorm(), accumulate=4)


class Pooled(Student):
    """An output with one row for the whole batch."""

    def forward(self, batch):
        outputs = super().forward(batch)
        return {**outputs, "mean": outputs["features"].mean(0, keepdim=True)}


@pytest.mark.parametrize("weighting", [FixedAlpha, Uncertainty])
def test_what_cannot_be_cut_is_named(module, rows, fit, weighting):
    """Prevents an output of the batch taken for one of its rows, and a tensor of the batch cut where it has no rows."""
    with pytest.raises(UserError, match="`accumulate=2`: 'mean' has 1 rows for a part of 4"):
        fit(module(weighting(), 8, Pooled(), accumulate=2), rows(8, 1))
    with pytest.raises(UserError, match=r"`accumulate=2`: batch\['classes'\] has 3 rows and the batch 2"):
        split({"index": torch.arange(2), "classes": torch.arange(3)}, 2)


class Learns(FixedAlpha):
    """A method of one's own on top of one that needs no batch; it learns by the batch's mean."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, step):
        return super().forward(step) * self.scale.exp()

    def own_loss(self, step):
        return (self.scale - step.losses.detach().mean()) ** 2

    def own_optimizer(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_method_that_learns_needs_the_batch(module, rows, fit):
    """Prevents a method that inherits `needs_batch = False` and whose own parameters are then never trained."""
    ends = []
    for accumulate in (1, 4):
        net = module(Learns(), 32, accumulate=accumulate, optimizer=lambda m: sgd(m.parameters()))
        fit(net, rows(32, 1), 16, precision="64-true")
        ends.append(net)
    assert float(ends[0].weighting.scale.detach()) > 0
    assert_same(*ends)
