"""A loss term of one's own, which no file of the package knows, under every method that its role allows; and in whole
runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from omegaconf import DictConfig, open_dict
from torch import Tensor, nn

from rwkd_lightning.run.build import check_terms, create, meta_of, terms_of, weighting_of
from rwkd_lightning.run.runner import run
from rwkd_lightning.terms import Term
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting import Step, Weighting, masked
from tests.run.conftest import arguments, backbone, tweets  # noqa: F401 (fixtures)
from tests.test_configs import config
from tests.test_method_pages import NAMES

OWN = "+loss_terms.cosine._target_=tests.weighting.test_own_term.Cosine"
LABELS_ALONE = ("ce",)


class Cosine(Term):
    """1 − cos of student's and teacher's logits."""

    role = "teacher"
    needs = frozenset({"classes"})

    def forward(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        return 1 - torch.cosine_similarity(self.prediction(outputs, batch), self.target(batch), dim=-1)


class Annealed(Cosine):
    role = "annealed"


class Rival(Cosine):
    role = "regulariser"


def step_of(terms: list[Term]) -> Step:
    g = torch.Generator().manual_seed(0)
    head = nn.Linear(4, 3)
    logits = head(torch.randn(8, 4, generator=g))
    batch = {"labels": torch.arange(8) % 3, "index": torch.arange(8), "teacher_logits": torch.randn(8, 3, generator=g),
             "teacher_corrupted": torch.arange(8) % 2 == 0, "sample_weight": torch.ones(8),
             "label_flipped": torch.arange(8) % 3 == 0}  # fmt: skip
    losses = torch.stack([term({"logits": logits}, batch) for term in terms], 1)
    return Step(
        losses,
        torch.ones_like(losses, dtype=torch.bool),
        terms,
        {"logits": logits.detach()},
        batch,
        0.25,
        torch.randn(losses.shape, generator=g),
        shared_parameters=tuple(head.parameters()),
    )


def made(*words: str) -> tuple[list[Term], Weighting, DictConfig]:
    composed = config(OWN, *words)
    with open_dict(composed):
        composed.weighting_name = words[0].partition("=")[2]
    return terms_of(composed), weighting_of(composed), composed


@pytest.mark.parametrize("name", NAMES)
def test_a_teacher_of_ones_own_under_every_method(name: str) -> None:
    """Prevents: a term that a table must know before a method weighs it; of annealing_kd, that its own role is said."""
    words = [f"weighting={name}", "terms=[ce,cosine]"]
    if name == "annealing_kd":
        terms, method, composed = made(*words)
        with pytest.raises(
            UserError, match=r"no annealed term.*\(ce has role label, cosine has role teacher\).*annealed_mse\]"
        ):
            check_terms(terms, composed, {"classes"}, method, "own")
        words.append(f"loss_terms.cosine._target_={__name__}.Annealed")
    terms, method, composed = made(*words)
    check_terms(terms, composed, {"classes"}, method, "own")
    step = step_of(terms)
    method.prepare({**step.batch})
    own = method.own_loss(step)
    weights = masked(method(step).detach(), step.valid)
    assert weights.shape == (8, 2) and bool((weights >= 0).all()) and (own is None or bool(own.isfinite()))
    assert bool((weights[:, 1] > 0).any()) == (name not in LABELS_ALONE)
    if name == "kd":
        assert weights[0].tolist() == [0.5, 0.5]
    if name == "annealed":
        assert weights[0].tolist() == pytest.approx([0.25, 0.75])
    if name == "oracle":
        assert weights[:4].tolist() == [[0, 0], [0.5, 0.5], [1, 0], [0, 1]]


def test_a_regulariser_of_ones_own_weighs_beta_or_is_refused() -> None:
    """Prevents: a third term that silently weighs nothing."""
    words = ["terms=[ce,kd,cosine]", f"loss_terms.cosine._target_={__name__}.Rival"]
    terms, method, _ = made("weighting=kd", "weighting.beta=0.2", *words)
    assert method(step_of(terms))[0].tolist() == pytest.approx([0.5, 0.5, 0.2])
    terms, method, composed = made("weighting=oracle", *words)
    with pytest.raises(UserError, match="'cosine' would weigh nothing"):
        check_terms(terms, composed, {"classes"}, method, "own")


def test_what_it_needs_is_asked_of_the_task() -> None:
    """Prevents: angles between single numbers, trained by for an hour."""
    terms, method, composed = made("weighting=kd", "task=stsb", "terms=[squared_error,cosine]")
    match = r"'cosine' is for classes, and task=stsb is a regression; its own are terms=\[squared_error,logit_mse\]"
    with pytest.raises(UserError, match=match):
        check_terms(terms, composed, {"numbers"}, method, "stsb")


def table(folder: Path) -> dict[str, list[float]]:
    found: dict[str, list[float]] = pyarrow.parquet.read_table(folder / "weights.parquet").to_pydict()
    return found


def test_two_temperatures_side_by_side_in_a_run(arguments: list[str], tmp_path: Path) -> None:  # noqa: F811
    """Prevents: two terms in one column. A student that stands still has, of each, the losses of a run with that one
    alone.

    The rate is next to nothing and the dropout masks are the seed's, so all three compare the same student with the
    same teacher.
    """
    kd4 = ["+loss_terms.kd4._target_=rwkd_lightning.terms.DistillationKL", "+loss_terms.kd4.temperature=4"]
    still = [*arguments, *kd4, "weighting=kd", "optimizer.lr=1e-12", "trainer.max_epochs=1", "pair.teacher.epochs=1"]
    columns = {}
    for names in ("ce,kd,kd4", "ce,kd", "ce,kd4"):
        folder = tmp_path / names.replace(",", "-")
        folder.mkdir()
        composed = config(*still, f"terms=[{names}]")
        with open_dict(composed):
            composed.weighting_name = "kd"
        run(composed, folder)
        columns[names] = table(folder)
    both = columns["ce,kd,kd4"]
    assert [n for n in both if n.startswith("w_")] == ["w_ce", "w_kd", "w_kd4"]
    assert {n: set(both[n]) for n in ("w_ce", "w_kd", "w_kd4")} == {"w_ce": {0.5}, "w_kd": {0.5}, "w_kd4": {0.5}}
    assert both["loss_kd"] != both["loss_kd4"]
    for name, alone in (("kd", columns["ce,kd"]), ("kd4", columns["ce,kd4"])):
        assert both["idx"] == alone["idx"]
        torch.testing.assert_close(
            torch.tensor(both[f"loss_{name}"]), torch.tensor(alone[f"loss_{name}"]), rtol=1e-4, atol=1e-6
        )


def test_the_loop_takes_it() -> None:
    """Prevents: a module that gives methods the names of terms without their roles."""
    terms, method, composed = made("weighting=kd", "terms=[cosine,ce]", "weighting.alpha=0.2")
    student = nn.Module()
    student.head = nn.Linear(4, 3)
    module = DistillationModule(student, terms, method, lambda m: torch.optim.SGD(m.parameters()), 8)
    assert module.term_names == ("cosine", "ce") and module.term_names.roles == ("teacher", "label")
    assert meta_of(composed, method, None) is None and create(composed, "loss_terms.kd", Term).name == "kd"  # type: ignore[arg-type]
