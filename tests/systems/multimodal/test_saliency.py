"""Weights by saliency, against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from scipy.stats import entropy
from torch import Tensor

from rwkd_lightning.systems.multimodal.saliency import ModalityOracle, Saliency
from rwkd_lightning.systems.multimodal.terms import ModalityKL
from rwkd_lightning.terms import CrossEntropy, DistillationKL
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting.base import Step
from rwkd_lightning.weighting.columns import Columns

TERMS = Columns.of([CrossEntropy(), DistillationKL(), ModalityKL(), ModalityKL(name="kd_image", output="logits_image")])


def rows(several: bool = False, size: int = 12) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    labels = (torch.rand(size, 3, generator=g) > 0.5).float() if several else torch.randint(3, (size,), generator=g)
    logits = {f"teacher_logits{end}": 2 * torch.randn(size, 3, generator=g) for end in ("", "_text", "_image")}
    return {
        "labels": labels,
        **logits,
        "has_text": torch.arange(size) % 5 != 1,
        "has_image": torch.arange(size) % 5 != 3,
        "index": torch.arange(size),
    }


def step(batch: dict[str, Tensor]) -> Step:
    size = len(batch["index"])
    valid = torch.stack([torch.ones(size).bool(), torch.ones(size).bool(), batch["has_text"], batch["has_image"]], 1)
    return Step(torch.rand(size, 4), valid, TERMS, {}, batch)


def score(by: str, batch: dict[str, Tensor], row: int, kind: str, tau: float) -> float:
    """By SciPy, one row at a time."""
    whole, alone = (batch[f"teacher_logits{end}"][row].double().numpy() for end in ("", f"_{kind}"))
    p = softmax(alone)
    if by == "divergence":
        return float(np.exp(-entropy(softmax(whole), p) / tau))
    if by == "loss":
        return float(np.exp(log_softmax(alone)[int(batch["labels"][row])]))
    return float(1 - entropy(p) / np.log(3))


@pytest.mark.parametrize("by", ["divergence", "loss", "entropy"])
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("level", ["instance", "population"])
def test_weights_against_a_loop(by: str, normalise: bool, level: str) -> None:
    """Prevents: a modality that is trusted by the other's score, or a row whose missing one takes a share."""
    batch = rows()
    method = Saliency(level, by, alpha=0.3, beta=0.8, tau=0.7, normalise=normalise)
    method.check(TERMS)
    method.prepare(batch)
    found = method(step(batch))
    kinds = ("text", "image")
    scores = np.array([[score(by, batch, row, kind, 0.7) for kind in kinds] for row in range(12)])
    there = np.stack([batch[f"has_{kind}"].numpy() for kind in kinds], 1)
    if level == "population":
        scores = np.broadcast_to(scores[there.all(1)].mean(0), scores.shape)
    scores = scores * there
    if normalise:
        scores = scores / scores.sum(1, keepdims=True) * there.sum(1, keepdims=True)
    expected = np.concatenate([np.full((12, 1), 0.7), np.full((12, 1), 0.3), 0.8 * scores], 1)
    torch.testing.assert_close(found.double(), torch.from_numpy(expected), atol=1e-6, rtol=1e-5)


def test_several_labels_are_questions_of_yes_and_no() -> None:
    """Prevents: a softmax over labels that do not exclude each other."""
    batch = rows(several=True)
    found = Saliency("instance", "loss", beta=1.0, normalise=False)(step(batch))
    p = batch["teacher_logits_text"].sigmoid()
    right = torch.where(batch["labels"] > 0, p, 1 - p).mean(1) * batch["has_text"]
    torch.testing.assert_close(found[:, 2], right)
    whole, alone = batch["teacher_logits"].double().sigmoid(), batch["teacher_logits_image"].double().sigmoid()
    kl = [
        [entropy([w, 1 - w], [a, 1 - a]) for w, a in zip(x, y, strict=True)] for x, y in zip(whole, alone, strict=True)
    ]
    found = Saliency("instance", "divergence", normalise=False)(step(batch))
    expected = torch.tensor(np.exp(-np.mean(kl, 1))) * batch["has_image"]
    torch.testing.assert_close(found[:, 3].double(), expected, atol=1e-6, rtol=1e-5)


def test_the_oracle_leaves_out_what_is_corrupted() -> None:
    """Prevents: a ceiling that is none."""
    batch = rows()
    flags = ("label_flipped", "teacher_corrupted", "text_swapped", "image_swapped")
    batch |= {name: torch.arange(12) == place for place, name in enumerate(flags)}
    found = ModalityOracle(0.4, 0.9)(step(batch))
    expected = torch.tensor([0.6, 0.4, 0.9, 0.9]).repeat(12, 1)
    expected[0, 0] = expected[2, 2] = expected[3, 3] = 0
    expected[1, 1:] = 0
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": "row"}, "`level` is 'row'; known are instance, population"),
        ({"by": "margin"}, "`by` is 'margin'; known are divergence"),
        ({"alpha": 2}, "`alpha` is 2"),
        ({"beta": -1}, "`beta` is -1"),
        ({"tau": 0}, "`tau` is 0"),
    ],
)
def test_arguments_out_of_range(options: dict[str, object], message: str) -> None:
    """Prevents: a run with weights that nobody asked for."""
    with pytest.raises(UserError, match=message):
        Saliency(**options)  # type: ignore[arg-type]


def test_saliency_needs_the_terms_and_the_answers() -> None:
    """Prevents: plain distillation under the name of saliency."""
    with pytest.raises(UserError, match="saliency weighs the terms of text and picture"):
        Saliency().check(Columns.of([CrossEntropy(), DistillationKL()]))
    with pytest.raises(UserError, match="teacher_logits_text of the training rows"):
        Saliency().prepare({"labels": torch.zeros(3)})
