"""What half precision may touch (the student's passes), what it may not (φ, weights, record), and what is refused."""

from __future__ import annotations

import warnings

import pytest
import torch

from rwkd_lightning.training.compatibility import check_precision
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting import RWKD, ClassificationFeatures, FixedAlpha, MetaWeightNet, PerturbationRWKD, masked
from tests.training.test_distillation_module import METHODS, flat, tgeo


@pytest.mark.parametrize("name", METHODS)
def test_bf16_mixed(module, rows, fit, name):
    """Prevents weights, φ, Adam's moments, bank or record kept in bf16, where a visit beyond the 256th counts for
    nothing.
    """
    net = module(METHODS[name]())
    fit(net, rows(32, 1), precision="bf16-mixed", max_epochs=2)
    kinds = {v.dtype for v in net.state_dict().values() if v.is_floating_point()}
    moments = {v.dtype for o in net.trainer.optimizers for state in o.state.values() for v in state.values()}
    assert kinds == moments == {torch.float32}
    assert bool(flat(net.student).isfinite().all())


class Recorder(torch.optim.SGD):
    """Keeps the gradients and leaves φ where it is."""

    def __init__(self, parameters):
        super().__init__(parameters, lr=0.0)
        self.gradients = []

    def step(self):
        self.gradients.append([p.grad.clone() for p in self.param_groups[0]["params"]])


@pytest.mark.parametrize(
    "make", [lambda: RWKD(ClassificationFeatures()), MetaWeightNet, tgeo], ids=["rwkd", "mwn", "tgeo"]
)
def test_networks_leave_autocast(module, rows, fit, make):
    """Prevents weights and φ-gradients rounded to bf16's eight bits: they are what the same φ gives in float32."""
    method, exact = make(), []
    for p in method.parameters():
        torch.nn.init.normal_(p, std=0.3)
    recorder = Recorder(method.parameters())
    method.own_optimizer = lambda: recorder

    def observe(step):
        with torch.autocast("cpu", enabled=False):
            gradients = torch.autograd.grad(method.own_loss(step), list(method.parameters()))
            exact.append((step.batch["index"], masked(method(step).detach(), step.valid), gradients))

    method.observe = observe
    net = module(method)
    fit(net, rows(32, 1), precision="bf16-mixed")
    assert len(exact) == len(recorder.gradients) == 4
    for (index, weights, gradients), used in zip(exact, recorder.gradients, strict=True):
        torch.testing.assert_close(net.ledger.weights[index], weights, rtol=1e-6, atol=1e-7)
        for a, b in zip(used, gradients, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["kd", "rwkd", "tgeo"])
def test_64_true(module, rows, fit, name):
    """Prevents a mixture of precisions that fails, or that is silently single: the two agree to float32's rounding
    only.
    """
    ends = []
    for precision in ("64-true", "32-true"):
        net = module(METHODS[name](), optimizer=lambda m: torch.optim.SGD(m.parameters(), lr=0.1))
        fit(net, rows(32, 1), precision=precision)
        kinds = {v.dtype for v in net.state_dict().values() if v.is_floating_point()}
        assert kinds == {torch.float64 if precision == "64-true" else torch.float32}
        ends.append(flat(net.student).double())
    difference = float((ends[0] - ends[1]).norm() / ends[0].norm())
    assert 0 < difference < 1e-5


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
@pytest.mark.parametrize("make", [FixedAlpha, PerturbationRWKD])
def test_refused_without_the_pipeline(module, rows, fit, make, precision):
    """Prevents a student whose updates are rounded away, for somebody who has a Trainer and our module only."""
    with (
        warnings.catch_warnings(),
        pytest.raises(UserError, match=f"`precision={precision}`.*use bf16-mixed or 32-true"),
    ):
        warnings.simplefilter("ignore")
        fit(module(make()), rows(32, 1), precision=precision)


@pytest.mark.parametrize(("precision", "why"), [
    ("16", "fp16"), ("16-mixed", "fp16"), ("16-true", "fp16"), ("transformer-engine-float16", "fp16"),
    ("bf16-true", "rounded away"), ("transformer-engine", "fp8"), ("bf8", "not known"),
])  # fmt: skip
def test_precisions_are_named(precision, why):
    """Prevents a precision that is refused for a wrong reason, or taken because its name begins like another's."""
    with pytest.raises(UserError, match=f"`precision={precision}` .*{why}.*; use bf16-mixed or 32-true"):
        check_precision(precision)
    for known in ("32-true", "32", "64-true", "64", "bf16-mixed", "bf16"):
        check_precision(known)


def test_updates_are_rounded_away_in_bf16():
    """Prevents a reason for refusing bf16-true that does not hold: of weights of a size of 0.1, three quarters do not
    move at all by a step of 1e-4.
    """
    weights = torch.randn(100_000, generator=torch.Generator().manual_seed(0)).mul(0.1).bfloat16()
    assert float((weights - 1e-4 == weights).float().mean()) == pytest.approx(0.756, abs=0.01)
