"""Weights that come with the data."""

from __future__ import annotations

from pathlib import Path

import lightning
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from rwkd_lightning import (
    RWKD,
    ClassificationFeatures,
    CrossEntropy,
    DistillationKL,
    DistillationModule,
    FixedAlpha,
    FromBatch,
    IndexedDataset,
    LabelsOnly,
    UserError,
)
from rwkd_lightning.terms import stack
from rwkd_lightning.weighting import EarlierWeights, GivenWeights, LearningToReweight, PerturbationRWKD, Step, Together

WEIGHTS = torch.tensor([2.0, 0.0, 0.5, 1.0, 3.0, 0.25], dtype=torch.float64)


def step(**changes: Tensor) -> Step:
    """Six rows of three classes with influences ``(6, 2)``."""
    g = torch.Generator().manual_seed(0)
    logits, teacher = (2 * torch.randn(6, 3, generator=g, dtype=torch.float64) for _ in range(2))
    batch = {"labels": torch.arange(6) % 3, "index": torch.arange(6), "teacher_logits": teacher}
    terms = [CrossEntropy(), DistillationKL(2.0)]
    losses = stack(terms, {"logits": logits}, batch)
    u = torch.randn(6, 2, generator=g, dtype=torch.float64)
    batch["sample_weight"] = WEIGHTS
    return Step(losses, losses >= 0, ("ce", "kd"), {"logits": logits}, batch, influence=changes.get("influence", u))


def test_the_weights_are_a_factor() -> None:
    """Prevents given weights that are ignored, added, normalised, or applied to one term alone."""
    expected = torch.stack([0.7 * WEIGHTS, 0.3 * WEIGHTS], 1)
    torch.testing.assert_close(GivenWeights(FixedAlpha(0.3))(step()), expected)
    labels = GivenWeights(LabelsOnly())(step())
    torch.testing.assert_close(labels, torch.stack([WEIGHTS, 0 * WEIGHTS], 1))


@pytest.mark.parametrize("inner", [PerturbationRWKD, LearningToReweight])
def test_the_inner_method_learns_from_the_influence_of_its_own_weights(inner: type) -> None:
    """Prevents an inner method that trusts the sample of weight 0 most: dL/dv_ik is g_i·dL/dw_ik by the chain rule."""
    u = torch.tensor([[1.0, 3.0], [9.0, 9.0], [-1.0, 2.0], [1.0, 1.0], [0.5, 0.0], [2.0, -1.0]], dtype=torch.float64)
    scaled = step(influence=u * WEIGHTS[:, None])
    torch.testing.assert_close(
        GivenWeights(inner())(step(influence=u)), inner()(scaled) * WEIGHTS[:, None].to(torch.float64)
    )
    meta_learned = GivenWeights(RWKD(ClassificationFeatures()).double())
    torch.testing.assert_close(
        meta_learned.own_loss(step(influence=u)), meta_learned.inner.own_loss(step(influence=u * WEIGHTS[:, None]))
    )


class Rows(TensorDataset):
    """Rows, labels and weights as a dict."""

    def __getitem__(self, index: int) -> dict[str, Tensor]:  # type: ignore[override]
        return dict(zip(("x", "labels", "sample_weight"), super().__getitem__(index), strict=True))


def test_a_training_is_that_of_weighted_losses(tmp_path: Path) -> None:
    """Prevents a column that is lost between the data and the student's step; the reference is a plain loop."""
    g = torch.Generator().manual_seed(1)
    x, y, w = torch.randn(12, 4, generator=g), torch.arange(12) % 3, torch.rand(12, generator=g)
    torch.manual_seed(0)
    network, reference = nn.Linear(4, 3), nn.Linear(4, 3)
    reference.load_state_dict(network.state_dict())
    module = DistillationModule(
        FromBatch(network, "x"),
        [CrossEntropy()],
        GivenWeights(LabelsOnly()),
        lambda m: torch.optim.SGD(m.parameters(), 0.1),
        clip=None,
    )
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=3, logger=False, enable_checkpointing=False, default_root_dir=tmp_path
    )
    trainer.fit(module, DataLoader(IndexedDataset(Rows(x, y, w)), batch_size=4))
    optimizer = torch.optim.SGD(reference.parameters(), 0.1)
    for _ in range(3):
        for rows in torch.arange(12).split(4):
            loss = (w[rows] * nn.functional.cross_entropy(reference(x[rows]), y[rows], reduction="none")).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    torch.testing.assert_close(network.weight, reference.weight)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "no column 'sample_weight'.*`sample_weight`"),
        ({"sample_weight": torch.tensor([1.0, -0.5])}, "is -0.5 in training row 1 .*0 or more"),
        ({"sample_weight": torch.tensor([float("nan"), 1.0, float("inf")])}, r"is nan in training row 0 \(2 such"),
        ({"sample_weight": torch.zeros(3)}, "is 0 in all training rows"),
    ],
)
def test_weights_that_cannot_be(columns: dict[str, Tensor], message: str) -> None:
    """Prevents gradients that climb, a training of NaN, and one that does nothing."""
    with pytest.raises(UserError, match=message):
        GivenWeights(FixedAlpha()).prepare(columns)


def test_memories_of_weights_are_refused() -> None:
    """Prevents an inner method that takes the products on record for its own weights."""
    features = Together([ClassificationFeatures(), EarlierWeights(("ce", "kd"))])
    for inner in (RWKD(ClassificationFeatures(), smoothing=0.5), RWKD(features)):
        with pytest.raises(UserError, match="weights of a sample's last visit"):
            GivenWeights(inner)
