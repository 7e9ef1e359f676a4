"""AMAL against its bi-level formulation by double backward, and against a loop over samples in plain Python."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from rwkd_lightning.bilevel import Jvp, RandomState
from rwkd_lightning.meta import All, Head, MetaStep
from rwkd_lightning.terms import CrossEntropy, stack
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting import AdaptiveMixing, FixedAlpha, GivenWeights, Permuted, Step, masked
from tests.meta.conftest import Stream
from tests.weighting.test_weighting_bilevel import TERMS, Student, by_the_book, rows

NAMES = ("ce", "kd")


def prepared(size: int, **options) -> AdaptiveMixing:
    method = AdaptiveMixing(**options).double()
    method.prepare({"labels": torch.zeros(size)})
    return method


def step_of(index, u, valid=None, **more) -> Step:
    losses = torch.ones(len(index), 2, dtype=torch.float64)
    valid = torch.ones(len(index), 2, dtype=torch.bool) if valid is None else valid
    batch = {"index": torch.tensor(index), **more}
    return Step(losses, valid, NAMES, {}, batch, influence=None if u is None else torch.as_tensor(u))


def test_a_training_by_hand():
    """Prevents weights of another sample, an update that is lost or made twice, one beyond the bounds that a later one
    has to undo first, and a step without an influence that moves something.
    """
    random, size, lr, most, alpha = np.random.default_rng(0), 10, 0.4, 1.5, 0.7
    method = prepared(size, lr=lr, most=most, alpha=alpha)
    unlabelled = {2, 7}
    mine = {i: [0.0, 1.0] if i in unlabelled else [1 - alpha, alpha] for i in range(size)}
    met = [0, 0]
    for number in range(60):
        index = random.permutation(size)[:4].tolist()
        valid = torch.tensor([[i not in unlabelled, True] for i in index])
        u = None if number % 3 == 0 else random.normal(size=(4, 2)) * valid.numpy()
        step = step_of(index, u, valid)
        if u is not None:
            unit = u / np.abs(u).mean()
            for row, i in enumerate(index):
                for k in range(2):
                    if valid[row, k]:
                        mine[i][k] = min(max(mine[i][k] + lr * unit[row, k], 0.0), most)
                        met[0] += mine[i][k] == 0
                        met[1] += mine[i][k] == most
        for _ in range(2):  # asked again, it says the same
            np.testing.assert_allclose(masked(method(step), step.valid).numpy(), [mine[i] for i in index], atol=1e-12)
        method.observe(step)
        np.testing.assert_allclose(masked(method(step), step.valid).numpy(), [mine[i] for i in index], atol=1e-12)
    assert min(met) > 5


class WithFeatures(Student):
    """The same, its head's inputs among its outputs."""

    def forward(self, batch):
        features = torch.tanh(self.body(batch["x"]))
        return {"logits": self.head(features), "features": features}


@pytest.mark.parametrize("theta", ["all", "head"])
def test_an_update_is_the_gradient_of_the_held_out_loss_by_the_weights(theta):
    """Prevents an influence of other weights than those that the samples have, or on other parameters: a step of
    projected descent on L_meta(θ̂(λ)), by double backward.
    """
    size, eta, lr = 7, 0.3, 0.2
    student, batch, held_out = WithFeatures(), rows(size, 1, (4,)), rows(6, 2)
    method = prepared(size, lr=lr)
    method.moved += 0.2 * torch.rand(size, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    valid = torch.stack([term.valid(batch) for term in TERMS], 1)
    before = masked(method(Step(torch.zeros(size, 2), valid, NAMES, {}, batch)), valid)
    meta = MetaStep(
        Jvp(), All() if theta == "all" else Head(centre=False), [CrossEntropy()], Stream(held_out, 6), lookahead_lr=eta
    )
    meta.build(student)
    state, outputs = RandomState.capture(torch.device("cpu")), student(batch)
    u = meta.influence(student, batch, outputs, lambda o: stack(TERMS, o, batch), before, state)
    losses = stack(TERMS, outputs, batch)
    step = Step(losses, valid, NAMES, {}, batch, influence=u)
    found = masked(method(step), valid)

    weights = before.clone().requires_grad_()
    fixed = dict(student.named_parameters())
    chosen = {n: p for n, p in fixed.items() if theta == "all" or n.startswith("head")}
    inner = (weights * by_the_book(student(batch)["logits"], batch)).sum(1).mean()
    slopes = torch.autograd.grad(inner, list(chosen.values()), create_graph=True)
    hat = {n: p - eta * g for (n, p), g in zip(chosen.items(), slopes, strict=True)}
    outer = F.cross_entropy(functional_call(student, {**fixed, **hat}, (held_out,))["logits"], held_out["labels"])
    (descent,) = torch.autograd.grad(-outer, weights)
    assert descent[4, 0] == 0
    expected = (before + lr * descent / descent.abs().mean()).clamp(0, 2) * valid
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    assert float((found - before).abs().max()) > 0.1


def test_until_it_is_moved_it_is_kd():
    """Prevents a comparison with `kd` that starts from other weights, rows without a label among them."""
    valid = torch.tensor([[True, True], [False, True]])
    step = step_of([3, 1], None, valid)
    method = prepared(5, alpha=0.7)
    torch.testing.assert_close(method(step), masked(FixedAlpha(0.7)(step), valid).double())
    method.observe(step)
    assert not bool(method.moved.any())


def test_a_wrapper_leaves_it_what_it_has_learned():
    """Prevents weights on record that were shuffled or scaled, taken for those that were learned."""
    given = torch.tensor([2.0, 0.5, 1.0, 0.0], dtype=torch.float64)
    u = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    alone, inner, scaled = (prepared(4) for _ in range(3))
    step = step_of([0, 1, 2, 3], u, sample_weight=given)
    alone.observe(step)
    Permuted(inner).observe(step)
    torch.testing.assert_close(inner.moved, alone.moved)
    method = GivenWeights(scaled)
    used = method(step)
    method.observe(step)
    torch.testing.assert_close(used, given[:, None] * (0.5 + scaled.moved))
    assert not bool(scaled.moved[3].any())  # a sample of weight 0 has no influence


def test_it_goes_on_from_a_checkpoint():
    """Prevents weights that begin anew in a second fit or after a resume, and a checkpoint that does not fit."""
    method = prepared(4)
    method.observe(step_of([0, 1], [[1.0, -1.0], [0.5, 2.0]]))
    kept = method.moved.clone()
    assert bool(kept[:2].all())
    method.prepare({"labels": torch.zeros(4)})
    unprepared = AdaptiveMixing().double()
    unprepared.load_state_dict(method.state_dict())
    torch.testing.assert_close(unprepared.moved, kept)
    torch.testing.assert_close(method.moved, kept)
    with pytest.raises(UserError, match="call its prepare"):
        AdaptiveMixing()(step_of([0], None))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lr": 0.0}, "`lr` is 0.0; it must be above 0"),
        ({"most": -1.0}, "`most` is -1.0; the largest weight"),
        ({"alpha": 1.5}, "`alpha` is 1.5"),
        ({"most": 0.6, "alpha": 0.3}, "`most` is 0.6, below the first weights"),
        ({"terms": ("ce", "kd", "hidden"), "beta": 3.0}, "beta=3.0; raise `most`"),
    ],
)
def test_settings_that_make_no_sense(options, said):
    """Prevents a training that moves nothing, or whose first step cuts the weights that it began with."""
    with pytest.raises(UserError, match=said):
        AdaptiveMixing(**options)
