"""Terms with parameters of their own, and a teacher that runs along, in the training loop."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rwkd_lightning.meta import All
from rwkd_lightning.systems.text.terms import HiddenStates
from rwkd_lightning.terms import CrossEntropy, DistillationKL, Term
from rwkd_lightning.training.batch_passes import goes_through
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting import RWKD, ClassificationFeatures, FixedAlpha
from tests.training.conftest import Student


class Inner(Student):
    """A student, or a teacher, that gives its features out as hidden states too."""

    def __init__(self, seed, scale=1.0):
        torch.manual_seed(seed)
        super().__init__()
        self.scale, self.calls = scale, 0

    def forward(self, batch):
        self.calls += 1
        outputs = super().forward(batch)
        return {**outputs, "hidden": self.scale * outputs["features"][:, None]}


def hidden_term(width=8):
    """As connected between widths of 8 and ``width``."""
    term = HiddenStates()
    torch.manual_seed(5)
    if width != 8:
        term.projections.append(nn.Linear(8, width, bias=False))
    return term


class Wide(Inner):
    """Twice the width."""

    def forward(self, batch):
        outputs = super().forward(batch)
        return {**outputs, "hidden": torch.cat([outputs["hidden"]] * 2, 2)}


def test_projection_is_trained_clipped_and_kept(module, rows, fit, tmp_path):
    """Prevents a projection that stays random, that escapes the clipping, or that a resumed run draws anew."""
    term = hidden_term(16)
    start = term.projections[0].weight.detach().clone()
    seen = []

    def optimizer(trained):
        seen.append({id(p) for p in trained.parameters()})
        return torch.optim.SGD(trained.parameters(), lr=1.0)

    made = module(
        FixedAlpha(0.5),
        net=Inner(0),
        terms=[CrossEntropy(), DistillationKL(2.0), term],
        teacher=Wide(1),
        optimizer=optimizer,
        clip=1e-3,
    )
    before = [p.detach().clone() for p in made.trained.parameters()]
    trainer = fit(made, rows(8, 1))  # one step
    assert id(term.projections[0].weight) in seen[0]
    moved = torch.cat([(a - b).flatten() for a, b in zip(before, made.trained.parameters(), strict=True)]).norm()
    assert float(moved) == pytest.approx(1e-3, rel=1e-3)
    assert not torch.equal(start, term.projections[0].weight)
    trainer.save_checkpoint(tmp_path / "c.ckpt")
    kept = torch.load(tmp_path / "c.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(kept["terms.2.projections.0.weight"], term.projections[0].weight)
    assert not any("teacher" in name for name in kept)


def test_optimizer_gets_the_student_alone(module):
    """Prevents a change of what an optimizer is made from where no term has parameters."""
    made = module(FixedAlpha(0.5))
    assert made.trained is made.student


def test_teacher_runs_along_for_what_is_missing(module, rows, fit):
    """Prevents a teacher asked in vain, trained, in training mode, or whose logits replace those of the batch."""
    teacher = Inner(1)
    before = [p.detach().clone() for p in teacher.parameters()]
    made = module(
        FixedAlpha(0.5),
        net=Inner(0),
        terms=[CrossEntropy(), DistillationKL(2.0), hidden_term()],
        teacher=teacher,
        train_size=16,
    )
    batches = []
    made.weighting.observe = lambda step: batches.append(step.batch)
    fit(made, rows(16, 1))
    assert teacher.calls == 2 and not teacher.training
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))
    data = rows(16, 1)
    expected = teacher({"x": data.rows["x"]})
    torch.testing.assert_close(torch.cat([b["teacher_hidden"] for b in batches]), expected["hidden"])
    assert torch.equal(torch.cat([b["teacher_logits"] for b in batches]), data.rows["teacher_logits"])

    calls = teacher.calls
    data.rows["teacher_hidden"] = expected["hidden"].detach()
    fit(
        module(
            FixedAlpha(0.5),
            net=Inner(0),
            terms=[CrossEntropy(), hidden_term(), DistillationKL()],
            teacher=teacher,
            train_size=16,
        ),
        data,
    )
    assert teacher.calls == calls


def test_rwkd_weighs_three_terms(module, rows, fit, meta_step):
    """Prevents a third term without weight, and the default meta step, which cannot see it, taken in silence."""
    terms = [CrossEntropy(), DistillationKL(2.0), hidden_term()]
    weighting = RWKD(ClassificationFeatures(), ["ce", "kd", "hidden"])
    with pytest.raises(UserError, match=r"'hidden' reads the student's hidden.*theta=bank.*use `theta=All"):
        module(weighting, net=Inner(0), terms=terms, teacher=Inner(1))
    made = module(weighting, net=Inner(0), terms=terms, teacher=Inner(1), meta=meta_step(theta=All()), train_size=32)
    fit(made, rows(32, 1), max_epochs=2)
    columns = made.ledger.columns()
    total = sum(columns[f"w_{n}"] for n in ("ce", "kd", "hidden"))
    torch.testing.assert_close(total, torch.ones(32))
    assert float(columns["influence_hidden"].abs().min()) > 0
    assert float(columns["w_hidden"].std()) > 0


@pytest.mark.parametrize("lookahead", [None, 0.05])
def test_lookahead_takes_the_weights_in_use(module, rows, fit, meta_step, monkeypatch, lookahead):
    """Prevents a lookahead along other weights than the method's."""
    made = module(FixedShares(), meta=meta_step(theta=All(), lookahead_lr=lookahead), train_size=8)
    seen = []
    influence = made.meta.influence
    monkeypatch.setattr(made.meta, "influence", lambda *a: seen.append(a[4]) or influence(*a))
    fit(made, rows(8, 1))
    expected = torch.tensor([[0.25, 0.75] if lookahead else [1.0, 1.0]]).expand(8, 2)
    assert torch.equal(seen[0], expected)


class FixedShares(FixedAlpha):
    """Takes a meta step and does nothing with it."""

    needs_influence = True

    def __init__(self):
        super().__init__(0.75)


class Undeclared(Term):
    """Reads the features, and does not say so."""

    name = "undeclared"

    def forward(self, outputs, batch):
        return outputs["logits"].square().mean(1) + outputs["features"].square().mean(1)


@pytest.mark.parametrize("terms", [
    [CrossEntropy(), DistillationKL(2.0)], [CrossEntropy(), DistillationKL(2.0), Undeclared()],
], ids=["logits alone", "undeclared"])  # fmt: skip
def test_the_terms_derivatives_serve_the_students_step(module, rows, fit, monkeypatch, terms):
    """Prevents a student that learns nothing from what a term reads beside the head's output, or something else than
    by the backward of its loss.
    """
    ends, shared = [], []
    for alone in (goes_through, lambda *_: False):
        monkeypatch.setattr("rwkd_lightning.training.module.goes_through", alone)
        shared.append(all(goes_through(*pair) for pair in through_logits(terms)))
        method = RWKD(ClassificationFeatures(), tuple(term.name for term in terms))
        net = module(method, terms=terms, optimizer=lambda m: torch.optim.SGD(m.parameters(), lr=0.5))
        fit(net, rows(32, 1), precision="64-true")
        ends.append(torch.cat([p.flatten() for p in net.student.parameters()]))
    assert shared == [len(terms) == 2] * 2
    torch.testing.assert_close(*ends, rtol=1e-10, atol=1e-10)


def through_logits(terms):
    """Each term's losses, and the output that it should go through."""
    weight = torch.ones(3, 2, requires_grad=True)
    features = torch.ones(4, 3) * weight[:, 0]
    outputs = {"features": features, "logits": features @ weight}
    batch = {"labels": torch.zeros(4, dtype=torch.long), "teacher_logits": torch.ones(4, 2), "index": torch.arange(4)}
    return [(term(outputs, batch), outputs["logits"]) for term in terms]
