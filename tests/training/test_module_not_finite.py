"""A step that meets NaN or infinity stops before anything takes it in, and says where it was met."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from rwkd_lightning.bilevel import FiniteDifference, Jvp
from rwkd_lightning.meta import All, HeadWithBank
from rwkd_lightning.terms import CrossEntropy, Term
from rwkd_lightning.utils.errors import NotFinite
from rwkd_lightning.weighting import (
    RWKD,
    ClassificationFeatures,
    DynamicWeightAverage,
    FixedAlpha,
    GradNorm,
    LearningToReweight,
    MetaWeightNet,
    PerturbationRWKD,
    Uncertainty,
)

METHODS = {
    "kd": FixedAlpha,
    "rwkd": lambda: RWKD(ClassificationFeatures()),
    "rwkd_online": PerturbationRWKD,
    "l2rw": LearningToReweight,
    "mwn": MetaWeightNet,
    "uncertainty": Uncertainty,
    "dwa": DynamicWeightAverage,
    "gradnorm": GradNorm,
}
SAVED = ("student.", "weighting.", "ledger.")


@pytest.fixture(autouse=True, params=[("cpu",), ()], ids=["at once", "later"])
def when(request, monkeypatch):
    """Checks made where the numbers come up, and as on a GPU, steps later."""
    monkeypatch.setattr("rwkd_lightning.training.finite_check.AT_ONCE", request.param)


def watched(net):
    """Copies of what a checkpoint holds before every step, without the bank, which is read anew."""
    before = []
    step = net.training_step

    def remember(batch, batch_idx):
        before.append({k: v.clone() for k, v in net.state_dict().items() if k.startswith(SAVED)})
        step(batch, batch_idx)

    net.training_step = remember
    return before


def stopped(net, fit, data, **options):
    """The error, after checking that nothing in the module has taken it in."""
    before = watched(net)
    with pytest.raises(NotFinite) as caught:
        fit(net, data, **options)
    after = net.state_dict()
    bad = caught.value.step  # and whatever steps came before it was read
    assert [k for k, v in before[bad].items() if not torch.equal(v, after[k])] == []
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", METHODS)
def test_a_loss(module, rows, fit, name, value, accumulate):
    """Prevents a run that goes on with NaN weights, φ, statistics or record; a message that names all rows, or none; an
    error that a replay cannot be made from.
    """
    if name == "gradnorm":
        accumulate = 1
    data = rows(32, 1)
    data.rows["teacher_logits"] = data.rows["teacher_logits"].float()
    data.rows["teacher_logits"][[19, 21]] = value
    error = stopped(module(METHODS[name](), accumulate=accumulate), fit, data)
    assert str(error).startswith("step 2: the loss of 'kd' is nan for the samples [1019, 1021]; lower `optimizer.lr`")
    assert (error.step, error.epoch, error.what) == (2, 0, "loss")
    assert torch.equal(error.batch["idx"], torch.arange(1016, 1024)) and torch.equal(
        error.batch["x"], data.rows["x"][16:24]
    )
    assert error.losses.shape == error.weights.shape == (8, 2)
    assert error.losses.isfinite().tolist() == [[True, i not in (3, 5)] for i in range(8)]
    assert bool(error.weights.isnan().all())


def test_a_replay(module, student, rows, fit):
    """Prevents a kept batch that is not the one that failed: from the student as it was, it gives the same losses."""
    data = rows(32, 1)
    data.rows["x"][19] = float("nan")
    net = module(FixedAlpha())
    error = stopped(net, fit, data, max_epochs=2)
    assert str(error).startswith("step 2: the loss of 'ce' and 'kd' is nan for the samples [1019];")
    again = torch.stack([term(net.student(error.batch), error.batch) for term in net.loss_terms], 1)
    torch.testing.assert_close(again.detach(), error.losses, equal_nan=True)


def test_many_samples_are_counted(module, rows, fit):
    """Prevents a line of a thousand numbers; and rows without `idx` that have no name."""
    data = rows(32, 1)
    data.rows["x"][16:30] = float("nan")
    del data.rows["idx"]
    error = stopped(module(FixedAlpha()), fit, data, batch_size=16)
    assert f"for the samples {list(range(16, 26))} and 4 more;" in str(error)


class Steep(Term):
    """Finite, with a gradient that is not: the root of 0."""

    name, role = "kd", "teacher"

    def forward(self, outputs, batch):
        return (outputs["logits"][:, 0] * (batch["index"] != 19)).abs().sqrt()


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_gradient(module, rows, fit, clip, accumulate):
    """Prevents a student of NaN after a step whose losses were all finite."""
    net = module(FixedAlpha(), terms=[CrossEntropy(), Steep()], clip=clip, accumulate=accumulate)
    error = stopped(net, fit, rows(32, 1))
    assert str(error).startswith(
        "step 2: the gradient is nan, of a batch of 8 rows whose losses are finite; lower `optimizer.lr`"
    )
    assert error.what == "gradient" and torch.equal(error.weights, torch.full((8, 2), 0.5))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["rwkd", "rwkd_online", "l2rw", "mwn"])
def test_an_influence(module, rows, fit, name, value):
    """Prevents an influence that counts as 0 because it is no number, and a φ, or weights, made of it."""
    net = module(METHODS[name]())
    influence = net.meta.influence

    def overflowing(*arguments):
        u = influence(*arguments)
        u[3, 1] = value if net.meta.steps == 3 else u[3, 1]
        return u

    net.meta.influence = overflowing
    error = stopped(net, fit, rows(32, 1))
    assert str(error).startswith(
        f"step 2: the influence of 'kd' is {value} for the samples [1019]; lower `optimizer.lr`"
    )
    assert error.what == "influence" and bool(error.losses.isfinite().all())


@pytest.mark.parametrize("engine", [Jvp(), FiniteDifference(), FiniteDifference(central=True)], ids=repr)
@pytest.mark.parametrize("theta", [HeadWithBank, All])
def test_a_meta_loss(module, rows, fit, meta_step, theta, engine):
    """Prevents a held-out row that is no number from ending all influence in silence: a finite difference along NaN is
    no stationary point.
    """
    meta = meta_step(theta=theta(), engine=engine)
    meta.stream.rows["x"][11] = float(
        "nan"
    )  # met in the first step by the bank, in the third by a stream of 5 rows a step
    error = stopped(module(meta=meta), fit, rows(32, 1))
    assert error.what == "meta loss" and "look at the held-out rows" in str(error)
    assert error.step == (0 if theta is HeadWithBank else 2)


class Learned(FixedAlpha):
    """A method of one's own that learns; its loss or its weights are no number from a step on."""

    def __init__(self, loss=0.0, weight=0.0):
        super().__init__()
        self.share = nn.Parameter(torch.tensor(0.5))
        self.loss, self.weight, self.steps = loss, weight, 0

    def forward(self, step):
        return self.share * super().forward(step) + (self.weight if self.steps == 2 else 0.0) * step.valid

    def own_loss(self, step):
        return (self.share**2) * (1 + (self.loss if self.steps == 2 else 0.0))

    def own_optimizer(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def observe(self, step):
        self.steps += 1


def test_what_a_method_learns_and_gives(module, rows, fit):
    """Prevents a φ of NaN for good, and weights of NaN that reach the student."""
    error = stopped(module(Learned(loss=float("inf"))), fit, rows(32, 1))
    assert error.what == "gradient of the weighting" and "step 2: the gradient of the weighting is inf" in str(error)
    net = module(Learned(weight=float("nan")))
    student = copy.deepcopy(net.student.state_dict())
    with pytest.raises(
        NotFinite, match="step 2: the weight of 'ce' and 'kd' is nan for the samples .*; lower `weight"
    ) as caught:
        fit(net, rows(32, 1))
    assert caught.value.what == "weight" and bool(caught.value.weights.isnan().all())
    assert not any(torch.equal(v, student[k]) for k, v in net.student.state_dict().items())  # two steps were taken
    assert all(bool(v.isfinite().all()) for k, v in net.state_dict().items() if k.startswith(SAVED))
