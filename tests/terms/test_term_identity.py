"""Names, outputs, roles, needs, masks and coupling of loss terms; and the names that the core must not know."""

from __future__ import annotations

import ast
import inspect
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rwkd_lightning
from rwkd_lightning import systems, terms
from rwkd_lightning.run.build import terms_of
from rwkd_lightning.systems.multimodal.terms import ModalityBernoulliKL, ModalityKL, ModalityMSE
from rwkd_lightning.systems.retrieval.terms import Contrastive, MarginMSE, Reverse, TeacherVectors
from rwkd_lightning.systems.summaries.terms import (
    Confidence,
    Smooth,
    TeacherConfidences,
    TokenCrossEntropy,
    TopKL,
)
from rwkd_lightning.systems.text.terms import Assistants, HiddenStates, LayerCrossEntropy, LayerKD, ValueRelation
from rwkd_lightning.systems.topics.terms import PriorKL, Reconstruction, Wasserstein
from rwkd_lightning.terms import (
    AnnealedMSE,
    BernoulliKL,
    BinaryCrossEntropy,
    CrossEntropy,
    DistillationKL,
    LogitMSE,
    SoftCrossEntropy,
    SquaredError,
    Term,
    stack,
)
from rwkd_lightning.training.compatibility import check_coupled, check_outputs, check_terms
from rwkd_lightning.training.ledger import Ledger
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting import FixedAlpha, LabelsOnly, Step
from rwkd_lightning.weighting.columns import Columns
from tests.test_configs import config

ROOT = Path(rwkd_lightning.__file__).parent
KD4 = [
    "+loss_terms.kd4._target_=rwkd_lightning.terms.DistillationKL",
    "+loss_terms.kd4.temperature=4",
    "terms=[ce,kd,kd4]",
]
ROLES = {
    BinaryCrossEntropy: ("label", None, {"labels"}),
    BernoulliKL: ("teacher", 0, {"labels"}),
    CrossEntropy: ("label", None, {"classes"}),
    SquaredError: ("label", None, {"numbers"}),
    PriorKL: ("label", None, {"words"}),
    Reconstruction: ("label", None, {"words"}),
    DistillationKL: ("teacher", 0, {"probabilities"}),
    SoftCrossEntropy: ("teacher", 1, {"probabilities"}),
    LogitMSE: ("teacher", 2, set()),
    Wasserstein: ("teacher", None, {"words"}),
    AnnealedMSE: ("annealed", None, set()),
    HiddenStates: ("regulariser", None, set()),
    ValueRelation: ("regulariser", None, set()),
    Contrastive: ("label", None, {"candidates"}),
    Reverse: ("label", None, {"candidates"}),
    MarginMSE: ("teacher", 1, {"candidates"}),
    TeacherVectors: ("teacher", 2, {"candidates"}),
    LayerKD: ("regulariser", None, {"probabilities"}),
    LayerCrossEntropy: ("regulariser", None, {"classes"}),
    Assistants: ("regulariser", None, {"probabilities"}),
    ModalityKL: ("regulariser", None, {"probabilities"}),
    ModalityBernoulliKL: ("regulariser", None, {"labels"}),
    ModalityMSE: ("regulariser", None, set()),
    TokenCrossEntropy: ("label", None, {"tokens"}),
    TopKL: ("teacher", 0, {"tokens"}),
    TeacherConfidences: ("teacher", 1, {"tokens"}),
    Smooth: ("regulariser", None, {"tokens"}),
    Confidence: ("regulariser", None, {"tokens"}),
}


class InBatch(Term):
    """Compares the rows of a batch."""

    name = "in_batch"
    in_batch = True

    def forward(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        s = self.prediction(outputs, batch)
        return (s @ s.T).mean(1) ** 2


def classes(rows: int = 6, *shape: int, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    g = torch.Generator().manual_seed(seed)
    s, t = (2 * torch.randn(rows, *shape, 3, generator=g, dtype=torch.float64) for _ in range(2))
    labels = torch.arange(rows * math.prod(shape)).reshape(rows, *shape) % 3
    return {"logits": s.requires_grad_()}, {"labels": labels, "teacher_logits": t, "index": torch.arange(rows)}


# Names


def test_two_terms_of_one_class_have_columns_of_their_own() -> None:
    """Prevents: the second of two KD terms overwriting the first one's weights, losses and influence."""
    two = terms_of(config(*KD4))
    assert [(t.name, getattr(t, "temperature", None)) for t in two] == [("ce", None), ("kd", 2.0), ("kd4", 4.0)]
    outputs, batch = classes()
    losses = stack(two, outputs, batch).detach()
    torch.testing.assert_close(losses[:, 1], DistillationKL(2.0)(outputs, batch).detach())
    torch.testing.assert_close(losses[:, 2], DistillationKL(4.0)(outputs, batch).detach())
    step = Step(losses, losses >= 0, two, outputs, batch)
    assert step.columns("teacher") == [1, 2] and FixedAlpha(0.3)(step)[0].tolist() == pytest.approx([0.7, 0.3, 0.3])
    kept = set(Ledger(3, Columns.of(two)).columns())
    assert kept == {"visits"} | {
        f"{kind}_{name}" for kind in ("w", "loss", "influence") for name in ("ce", "kd", "kd4")
    }


def test_equal_names_are_refused() -> None:
    """Prevents: columns that overwrite each other silently; said wherever terms meet, and of both."""
    match = (
        r"two loss terms are called 'kd', DistillationKL\(temperature=2\) and DistillationKL\(temperature=4\).*another"
    )
    two = [CrossEntropy(), DistillationKL(), DistillationKL(4.0)]
    outputs, batch = classes()
    for attempt in (
        lambda: Columns.of(two),
        lambda: terms_of(config(*KD4, "+loss_terms.kd4.name=kd")),
        lambda: DistillationModule(nn.Linear(2, 3), two, FixedAlpha(), None, 4),  # type: ignore[arg-type]
        lambda: Step(stack(two, outputs, batch), torch.ones(6, 3) > 0, two, outputs, batch),
    ):
        with pytest.raises(UserError, match=match):
            attempt()  # type: ignore[no-untyped-call]
    with pytest.raises(UserError, match="two loss terms"):
        Ledger(3, ("a", "a"))
    with pytest.raises(
        UserError, match="called 'teacher_ce'.*ce_of_teacher say"
    ):  # weights.parquet has a loss_teacher_ce
        Columns.of([CrossEntropy(name="teacher_ce")])


@pytest.mark.parametrize("name", ["", 3])
def test_a_name_is_a_text(name: Any) -> None:
    """Prevents: columns called w_."""
    with pytest.raises(UserError, match="name is a text"):
        DistillationKL(name=name)


def test_messages_name_the_key_of_the_config() -> None:
    """Prevents: advice on loss_terms.hidden to somebody who calls it otherwise; and two layer sets under one output."""
    key = "+loss_terms.early._target_=rwkd_lightning.systems.text.terms.HiddenStates"
    with pytest.raises(UserError, match="loss_terms.early.pool='max'"):
        terms_of(config(key, "+loss_terms.early.pool=max", "terms=[ce,kd,early]"))
    early, late = terms_of(config(key, "terms=[early,hidden]"))
    assert (early.reads, late.reads) == (("early",), ("hidden",))
    assert ValueRelation(name="last").reads == ("last_values",) and ValueRelation().reads == ("values",)


def test_the_output_is_an_argument() -> None:
    """Prevents: a term that reads the first of two heads whatever it was told."""
    outputs, batch = classes()
    other = {"image": outputs["logits"]}
    found = DistillationKL(name="image_kd", output="image")(other, batch | {"teacher_image": batch["teacher_logits"]})
    assert torch.equal(found, DistillationKL()(outputs, batch))
    assert torch.equal(DistillationKL(output="image", teacher_output="logits")(other, batch), found)
    assert torch.equal(CrossEntropy(output="image")(other, batch), CrossEntropy()(outputs, batch))
    with pytest.raises(UserError, match="'kd' reads the student's output 'logits', and it gives image"):
        DistillationKL()(other, batch)
    with pytest.raises(
        UserError, match="reads the student's output 'image'.*gives hidden, logits; set loss_terms.other.output"
    ):
        check_outputs(
            [HiddenStates(), DistillationKL(), DistillationKL(name="other", output="image")], {"logits", "hidden"}
        )
    with pytest.raises(UserError, match="reads the teacher's output 'image'.*set loss_terms.kd.teacher_output"):
        check_outputs([DistillationKL(teacher_output="image")], {"logits"})
    with pytest.raises(UserError, match=r"batch\['teacher_image'\]"):
        DistillationKL(output="image")(other, batch)


# Roles and needs


def shipped(kind: Any = Term) -> Iterator[type[Term]]:
    for found in kind.__subclasses__():
        if found.__module__.startswith(f"{rwkd_lightning.__name__}."):
            if not inspect.isabstract(found):
                yield found
            yield from shipped(found)


def test_roles_of_all_shipped_terms() -> None:
    """Prevents: a term that methods take for another kind of thing than it is, or leave out."""
    assert set(shipped()) == set(ROLES)
    assert {kind: (kind.role, kind.preference, set(kind.needs)) for kind in ROLES} == ROLES
    assert [kind.regression for kind in (CrossEntropy, SquaredError, LogitMSE)] == [False, True, None]  # of version 0.1


@pytest.mark.parametrize(
    ("names", "teachers"),
    [
        (("ce", "soft_ce", "kd"), [2]),
        (("soft_ce", "logit_mse"), [0]),
        (("logit_mse",), [0]),
        (("prior_kl", "w2", "reconstruction", "soft_ce"), [1, 3]),
        (("ce", "hidden"), []),
    ],
)
def test_which_terms_speak_for_the_teacher(names: tuple[str, ...], teachers: list[int]) -> None:
    """Prevents: soft_ce beside kd taking α a second time, or one of a topic model's two teacher terms left at β."""
    assert Columns.of(names).having("teacher") == teachers
    assert Columns.of(("prior_kl", "w2", "reconstruction")).having("label") == [0, 2]


def test_version_0_1_stays_readable() -> None:
    """Prevents: a term or a method of one's own, written for version 0.1, that is no longer checked."""
    with pytest.warns(FutureWarning, match="regression=True is needs={'numbers'} now"):

        class Old(Term):
            name, regression = "old", True

            def forward(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
                return outputs["logits"][:, 0]

    class OldMethod(LabelsOnly):
        def check(self, terms: Any, regression: bool) -> None:  # type: ignore[override]
            if regression:
                raise UserError(f"no scores: {terms[0]}")

    with pytest.raises(UserError, match="'old' is for a regression"):
        check_terms([Old()], {"classes"}, FixedAlpha())
    with pytest.raises(UserError, match="no scores: squared_error"):
        check_terms([SquaredError()], {"numbers"}, OldMethod())
    check_terms([CrossEntropy()], {"classes"}, OldMethod())
    with pytest.warns(FutureWarning, match="now; the old name"):
        assert terms.PriorKL is systems.topics.terms.PriorKL  # type: ignore[attr-defined]


# Rows that are coupled


def test_coupled_rows_are_not_cut() -> None:
    """Prevents: contrasts among half of a batch, with every figure of the run looking right."""
    with pytest.raises(UserError, match="`accumulate=2`: the term 'in_batch'"):
        check_terms([CrossEntropy(), DistillationKL(), InBatch()], {"classes"}, FixedAlpha(), accumulate=2)
    check_coupled([CrossEntropy(), InBatch()], 1)
    check_coupled([CrossEntropy()], 2)
    with pytest.raises(UserError, match="`accumulate=3`"):
        DistillationModule(nn.Linear(2, 3), [InBatch()], FixedAlpha(), None, 4, accumulate=3)  # type: ignore[arg-type]


def test_rows_of_processes_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents: a run that hangs in its first gathering, or rows mixed up, for padded outputs of several lengths."""
    monkeypatch.setattr("rwkd_lightning.terms.base.world_size", lambda: 2)
    others = [{"labels": (4,), "index": (4,)}, {"logits": (4, 9, 3)}]
    monkeypatch.setattr("rwkd_lightning.terms.in_batch.gather_objects", lambda mine: [mine, others])
    batch = {"index": torch.arange(4), "labels": torch.zeros(4)}
    with pytest.raises(UserError, match=r"'logits' have the shapes \[\(4, 7, 3\), \(4, 9, 3\)\]"):
        stack([InBatch()], {"logits": torch.zeros(4, 7, 3)}, batch)


# Positions


@pytest.mark.parametrize(
    "term",
    [DistillationKL(3.0, mask="mask"), SoftCrossEntropy(3.0, mask="mask"), LogitMSE(mask="mask")],
    ids=lambda term: term.name,
)
def test_positions_against_a_loop(term: Term) -> None:
    """Prevents: a softmax over the positions, a mean over padding, and a gradient from what stands in it."""
    outputs, batch = classes(3, 4)
    batch["mask"] = torch.tensor([[1, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]])
    with torch.no_grad():
        outputs["logits"][0, 2] = math.inf  # padding holds anything
        batch["teacher_logits"][1, 3] = math.nan
    found = term(outputs, batch)
    assert term.valid(batch).tolist() == [True, True, False]
    free = outputs["logits"].detach().clone().requires_grad_()
    one = type(term)(3.0) if isinstance(term, DistillationKL) else LogitMSE()
    rows = []
    for i in range(3):
        valid = [j for j in range(4) if batch["mask"][i, j]]
        values = [
            one({"logits": free[i, j][None]}, {"teacher_logits": batch["teacher_logits"][i, j][None]})[0] for j in valid
        ]
        rows.append(torch.stack(values).mean() if values else torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(found, torch.stack(rows), rtol=1e-12, atol=0)
    (expected,) = torch.autograd.grad(torch.stack(rows).sum(), free)
    (gradient,) = torch.autograd.grad(found.sum(), outputs["logits"])
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-15)


def test_cross_entropy_of_positions() -> None:
    """Prevents: positions taken for classes, and a mean over those without a label."""
    outputs, batch = classes(3, 4)
    batch["labels"] = torch.tensor([[0, 2, -1, 1], [-1, -1, -1, 2], [-1, -1, -1, -1]])
    found, log_p = CrossEntropy()(outputs, batch), outputs["logits"].detach().log_softmax(-1)
    expected = [-(log_p[0, 0, 0] + log_p[0, 1, 2] + log_p[0, 3, 1]) / 3, -log_p[1, 3, 2], 0]
    assert found.tolist() == pytest.approx([float(x) for x in expected])
    assert CrossEntropy().valid(batch).tolist() == [True, True, False]


def test_a_mask_that_does_not_fit_is_named() -> None:
    """Prevents: a mask of rows broadcast over positions, or one that is not there and masks nothing."""
    outputs, batch = classes(3, 3)
    with pytest.raises(UserError, match="mask='pad'.*it has labels, teacher_logits, index"):
        DistillationKL(mask="pad")(outputs, batch)
    with pytest.raises(UserError, match=r"'mask' is \(3,\) and what it reads \(3, 3, 3\); the mask must be \(3, 3\)"):
        DistillationKL(mask="mask")(outputs, batch | {"mask": torch.ones(3)})


# What the core must not name

CLEAN = ("weighting", "terms", "meta", "bilevel", "data", "cache", "utils")
SYSTEMS_TERMS = sorted(kind.name for kind in ROLES if ".systems." in kind.__module__)


def named_in_code(path: Path) -> set[str]:
    """The text constants of a file and the words in them; not docstrings, nor defaults of arguments and class
    attributes.
    """
    tree = ast.parse(path.read_text())
    free: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            free |= {id(node.value)}
        elif isinstance(node, ast.arguments):
            free |= {id(x) for default in [*node.defaults, *node.kw_defaults] if default for x in ast.walk(default)}
        elif isinstance(node, ast.ClassDef):
            free |= {id(x.value) for x in node.body if isinstance(x, ast.AnnAssign) and x.value}
    texts = {
        n.value
        for n in ast.walk(tree)
        if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in free
    }
    return texts | {
        word for text in texts for word in re.findall(r"\w+", text) if word != "logits"
    }  # a gate has some too


@pytest.mark.parametrize("folder", CLEAN)
def test_no_output_and_no_systems_term_is_named(folder: str) -> None:
    """Prevents: a term or an output of a system that has to be entered in a core file."""
    assert {"hidden", "prior_kl", "reconstruction", "value_relation", "w2", "contrastive"} <= {*SYSTEMS_TERMS}
    for path in sorted((ROOT / folder).rglob("*.py")):
        found = named_in_code(path) & {*SYSTEMS_TERMS, "logits", "teacher_logits"} - {"hidden"}  # units of a network
        assert not found, f"{path.relative_to(ROOT)} names {sorted(found)}"
        assert "rwkd_lightning.systems" not in path.read_text(), path
