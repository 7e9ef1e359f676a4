"""Training rows without a label under every method that is shipped: the teacher's terms alone teach them."""

from __future__ import annotations

import csv
import functools
import logging
import math
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from hydra import compose, initialize_config_dir
from torch.utils.data import DataLoader

from rwkd_lightning.bilevel import Jvp
from rwkd_lightning.meta import HeadWithBank, MetaStep
from rwkd_lightning.run.build import terms_of, weighting_of
from rwkd_lightning.run.log_file import LogFile
from rwkd_lightning.systems.text.terms import HiddenStates
from rwkd_lightning.terms import CrossEntropy, DistillationKL, LogitMSE, SquaredError, Term
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.training.optim import adamw
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting import (
    RWKD,
    FixedAlpha,
    LearningToReweight,
    MetaWeightNet,
    RegressionFeatures,
    Step,
    Weighting,
    masked,
)
from tests.meta.conftest import Stream
from tests.shipped_methods import ALL
from tests.training.conftest import Rows, Student

ROOT = Path(__file__).parents[2]
UNLABELLED = [0, 1, 2, 3, 10, 21]  # the first batch of 4, and two rows more
SHARES = (
    "kd",
    "annealed",
    "annealing_kd",
    "staged",
    "teacher_confidence",
    "oracle",
    "rwkd",
    "rwkd_plain",
    "rwkd_online",
    "global",
    "permuted",
    "tgeo",
)
TEACHER = {  # the weight of the teacher's term where the label's has no value, and how far it may be off
    "ce": (0.0, 0.0),
    **dict.fromkeys(SHARES, (1.0, 1e-6)),
    **dict.fromkeys(("dwa", "gradnorm"), (2.0, 1e-6)),  # of 1, of K
    "wls": (2.5, 1e-6),
    "given": (3.0, 1e-6),
    "uncertainty": (math.exp(0.5) / 2, 0.1),  # a weight that has nothing to do with the label's
    "rwkd_cross_fitted": (0.5, 0.5),  # in (0, 1), whatever the label's is
    "amal": (1.0, 1.0),  # from kd's, in [0, 2]
    "mwn": (0.5, 0.4),
    "l2rw": (2.0, 2.0),  # one of the sample: in (0, 1), and from 0 to B = 4
}


def trained(weighting: Weighting, terms: list[Term], data: Rows, folder: Path, **options: Any) -> DistillationModule:
    """An epoch of 8 batches of 4 rows, in their order, logged at every step."""
    torch.manual_seed(0)
    meta = None
    if weighting.needs_influence:
        meta = MetaStep(Jvp(), HeadWithBank(), [CrossEntropy()], Stream(Rows(20, 7).rows, 5))
    weighting.prepare(data.rows)
    net = DistillationModule(
        Student(dropout=0.2), terms, weighting, functools.partial(adamw, lr=1e-2), 32, meta=meta, **options
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_model_summary=False,
        max_epochs=1,
        enable_progress_bar=False,
        default_root_dir=folder,
        enable_checkpointing=False,
        log_every_n_steps=1,
        callbacks=[LogFile(folder / "log.csv", 1)],
    )
    trainer.fit(net, DataLoader(data, 4, generator=torch.Generator()))
    return net


def half_labelled() -> Rows:
    data = Rows(32, 1, corrupted=0.3)
    data.rows["labels"][UNLABELLED] = -1
    data.rows["teacher_corrupted"][UNLABELLED] = False
    data.rows["sample_weight"] = torch.full((32,), 3.0)
    return data


@pytest.mark.filterwarnings("ignore:The `.*dataloader.*` does not have many workers")
@pytest.mark.parametrize(
    ("name", "accumulate"),
    [
        *((name, 1) for name in ALL),
        ("kd", 2),
        ("dwa", 2),
        ("rwkd", 2),
    ],
)
def test_every_method(name: str, accumulate: int, tmp_path: Path) -> None:
    """Prevents: weight on a label that is not there, a row that is lost to the teacher too, and a batch without any
    label that turns the student, a statistic or the log into NaN.
    """
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", [f"weighting={name}"])
    net = trained(weighting_of(config), terms_of(config), half_labelled(), tmp_path, accumulate=accumulate)
    for value in (*net.student.parameters(), *net.weighting.state_dict().values(), *net.ledger.buffers()):
        assert bool(value.isfinite().all())
    assert net.ledger.weights[UNLABELLED, 0].tolist() == [0.0] * 6
    expected, band = TEACHER[name]
    assert net.ledger.weights[UNLABELLED, 1].tolist() == [pytest.approx(expected, abs=band)] * 6
    assert bool((net.ledger.losses[UNLABELLED, 1] > 0).all())
    columns = net.ledger.columns()
    assert columns["visits"].tolist() == [1] * 32
    for kind in ("w", "loss", "influence"):
        label, teacher = (columns[f"{kind}_{term}"].isnan() for term in net.term_names)
        none = kind == "influence" and not net.weighting.needs_influence
        assert label.nonzero().flatten().tolist() == (list(range(32)) if none else UNLABELLED)
        assert bool(teacher.all() if none else ~teacher.any())

    rows = list(csv.DictReader((tmp_path / "log.csv").open()))  # means over the rows that have the term
    assert [math.isnan(float(row[f"loss/{net.term_names[0]}"])) for row in rows] == [True] + [False] * 7
    assert all(math.isfinite(float(row[name])) for row in rows for name in ("loss", f"loss/{net.term_names[1]}"))
    for step in (2, 3, 5):
        of_batch = slice(4 * step, 4 * step + 4)
        known = net.ledger.valid[of_batch, 0]
        assert float(rows[step]["loss/ce"]) == pytest.approx(
            float(net.ledger.losses[of_batch, 0][known].mean()), rel=1e-6
        )


@pytest.mark.filterwarnings("ignore:The `.*dataloader.*` does not have many workers")
@pytest.mark.parametrize("name", ALL)
def test_every_method_where_the_teacher_says_nothing(name: str, tmp_path: Path) -> None:
    """Prevents: weight on what a teacher has not said, a row that is lost to the labels too, and a stand-in for its
    outputs that reaches the student.
    """
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", [f"weighting={name}"])
    found = []
    for stand_in in (0.0, 7.0):
        data = Rows(32, 1, corrupted=0.3)
        data.rows["sample_weight"] = torch.full((32,), 3.0)
        data.rows["teacher_logits_known"] = torch.ones(32, dtype=torch.bool)
        data.rows["teacher_logits_known"][UNLABELLED] = False
        data.rows["teacher_logits"][UNLABELLED] = stand_in  # for every class: no opinion
        data.rows["teacher_corrupted"][UNLABELLED] = False
        net = trained(weighting_of(config), terms_of(config), data, tmp_path)
        assert net.ledger.weights[UNLABELLED, 1:].tolist() == [[0.0] * (len(net.term_names) - 1)] * 6
        assert net.ledger.columns()[f"w_{net.term_names[1]}"].isnan().nonzero().flatten().tolist() == UNLABELLED
        for value in (*net.student.parameters(), *net.weighting.state_dict().values(), *net.ledger.buffers()):
            assert bool(value.isfinite().all())
        found.append((net.ledger.weights, *net.student.parameters()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    labels = found[0][0][UNLABELLED, 0]
    learned = ("amal", "l2rw", "mwn", "rwkd_cross_fitted")  # whatever they give: terms that do not compete
    if name not in (
        "annealing_kd",
        "staged",
        "annealed",
        "teacher_confidence",
        *learned,
    ):  # the others here start from 0
        assert bool((labels > 0.5).all())


def test_no_alarm_where_rows_have_no_choice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Prevents: a collapse that is told of because nearly all rows have no label, so no term but the teacher's."""
    data = Rows(32, 1)
    data.rows["labels"][:28] = -1
    net = DistillationModule(
        Student(),
        [CrossEntropy(), DistillationKL()],
        RWKD(LabelFree()),
        functools.partial(adamw, lr=1e-2),
        32,
        meta=MetaStep(Jvp(), HeadWithBank(), [CrossEntropy()], Stream(Rows(20, 7).rows, 5)),
    )
    net.alarm.patience = 1
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_model_summary=False,
        max_epochs=1,
        enable_progress_bar=False,
        default_root_dir=tmp_path,
        enable_checkpointing=False,
    )
    with caplog.at_level(logging.WARNING, "rwkd_lightning"):
        trainer.fit(net, DataLoader(data, 4, generator=torch.Generator()))
    assert net.alarm.count == 0 and "collapsed" not in caplog.text


class LabelFree(torch.nn.Module):
    """A feature that does not look at the label."""

    width = 1

    def forward(self, step: Step) -> torch.Tensor:
        return step.losses.detach()[:, :1] * 0


@pytest.mark.parametrize("method", [FixedAlpha(0.3), MetaWeightNet(0.3), LearningToReweight(0.3)])
def test_the_teacher_alone(method: Weighting, tmp_path: Path) -> None:
    """Prevents: terms=[kd] that is refused, or that trains at α of the rate that a row without a label has beside
    ce.
    """
    method.check(("kd",))
    method.check(("kd", "hidden"))
    data = half_labelled()
    net = trained(method, [DistillationKL()], data, tmp_path)
    if isinstance(method, FixedAlpha):
        assert net.ledger.weights.tolist() == [[1.0]] * 32
        losses, names = torch.rand(3, 2), ("kd", HiddenStates.name)
        step = Step(losses, losses >= 0, names, {}, {})
        assert FixedAlpha(0.3, 0.7)(step).tolist() == [pytest.approx([1.0, 0.7])] * 3
    assert bool(net.ledger.valid.all()) and all(bool(p.isfinite().all()) for p in net.student.parameters())
    with pytest.raises(UserError, match=r"`weighting.alpha=0` with terms=\['kd'\].*use `weighting.alpha=0.5`"):
        FixedAlpha(0.0).check(("kd",))
    FixedAlpha(0.0).check(("ce", "kd"))


@pytest.mark.parametrize(
    ("alpha", "beta", "expected"),
    [
        (0.5, 1.0, [0.0, 1.0]),
        (0.25, 1.0, [0.0, 1.0]),
        (0.0, 1.0, [0.0, 0.0]),
        (0.5, 1.0, [0.0, 2 / 3, 4 / 3]),
        (0.2, 0.6, [0.0, 0.4, 1.2]),
    ],
)
def test_the_label_share_goes_to_the_others_in_proportion(alpha: float, beta: float, expected: list[float]) -> None:
    """Prevents: a row without a label whose total is another than that of the rest (docs/weighting.md gives these
    figures).
    """
    losses = torch.rand(1, len(expected), dtype=torch.float64)
    valid = torch.tensor([[False] + [True] * (len(expected) - 1)])
    step = Step(losses, valid, ("ce", "kd", "hidden")[: len(expected)], {}, {})
    assert masked(FixedAlpha(alpha, beta)(step), valid)[0].tolist() == pytest.approx(expected)


def test_a_regression(tmp_path: Path) -> None:
    """Prevents: a score that is missing (NaN) and reaches the loss, its gradient or the network that weighs."""
    logits = torch.randn(5, 1, dtype=torch.float64, requires_grad=True)
    batch = {
        "labels": torch.tensor([1.0, float("nan"), 2.5, float("nan"), 0.0], dtype=torch.float64),
        "index": torch.arange(5),
        "teacher_logits": torch.randn(5, 1, dtype=torch.float64),
    }
    term, known = SquaredError(), torch.tensor([True, False, True, False, True])
    assert torch.equal(term.valid(batch), known)
    losses = term({"logits": logits}, batch)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    expected = torch.where(known, 2 * (logits.detach()[:, 0] - batch["labels"].nan_to_num()), 0.0)
    torch.testing.assert_close(gradient[:, 0], expected)
    torch.testing.assert_close(losses.detach(), (expected / 2) ** 2)

    step = Step(
        torch.stack([losses, LogitMSE()({"logits": logits}, batch)], 1),
        torch.stack([known, known | True], 1),
        ("squared_error", "logit_mse"),
        {"logits": logits.detach()},
        batch,
    )
    features = RegressionFeatures()(step)
    assert features[~known][:, [0, 2, 3]].tolist() == [[0.0] * 3] * 2 and bool((features[:, 1] > 0).all())
    assert bool(features[known].ne(0).all())
    assert masked(RWKD(RegressionFeatures(), step.terms)(step), step.valid)[1].tolist() == [0.0, 1.0]
