"""The terms over tokens beside their definitions, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rwkd_lightning.systems.summaries.terms import Confidence, Smooth, TeacherConfidences, TokenCrossEntropy, TopKL
from rwkd_lightning.systems.summaries.top_k import averaged

V, SIZES = 50, (5, 2, 1)
Case = tuple[dict[str, Tensor], dict[str, Tensor], Tensor]


def case(k: int = V, peak: float = 1.0) -> Case:
    """Three summaries of 5, 2 and 1 tokens; the teacher's logits beside them."""
    draw = torch.Generator().manual_seed(0)
    logits, teacher = torch.randn(2, 3, 5, V, generator=draw, dtype=torch.float64).unbind()
    labels = torch.randint(V, (3, 5), generator=draw)
    for row, size in enumerate(SIZES):
        labels[row, size:] = -1
    teacher = peak * teacher
    log_q = teacher.log_softmax(-1)
    top, ids = log_q.topk(k, -1)
    sizes = torch.tensor(SIZES)
    batch = {
        "labels": labels,
        "index": torch.arange(3),
        "length_share": sizes / sizes.double().mean(),
        "teacher_top": top,
        "teacher_top_ids": ids,
        "teacher_rest": (1 - top.exp().sum(-1)).clamp_min(0).log(),
        "teacher_gold": log_q.gather(-1, labels.clamp_min(0)[..., None])[..., 0],
    }
    return {"logits": logits.requires_grad_()}, batch, teacher


def each(values: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """The mean over each summary's tokens, by a loop."""
    return torch.stack([values[row, :size].mean() for row, size in enumerate(SIZES)])


def gradient(loss: Tensor, outputs: dict[str, Tensor]) -> Tensor:
    return torch.autograd.grad(loss.sum(), outputs["logits"], retain_graph=True)[0]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_torchs(smoothing: float) -> None:
    """Prevents: padding in the mean, or a smoothing of another definition than torch's."""
    outputs, batch, _ = case()
    flat = F.cross_entropy(
        outputs["logits"].movedim(-1, 1), batch["labels"], ignore_index=-1, reduction="none", label_smoothing=smoothing
    )
    torch.testing.assert_close(TokenCrossEntropy(smoothing)(outputs, batch), each(flat, batch), rtol=1e-12, atol=1e-12)


def test_length_weighted_losses_are_the_mean_over_tokens() -> None:
    """Prevents: a batch's loss that is neither of the two means."""
    outputs, batch, _ = case()
    whole = F.cross_entropy(outputs["logits"].movedim(-1, 1), batch["labels"], ignore_index=-1)
    torch.testing.assert_close(TokenCrossEntropy(length_weighted=True)(outputs, batch).mean(), whole)
    assert abs((TokenCrossEntropy()(outputs, batch).mean() - whole).item()) > 1e-3


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_sparse_divergence_is_the_dense_one_where_all_tokens_are_kept(temperature: float) -> None:
    """Prevents: a rest that counts twice, and a temperature on one side."""
    outputs, batch, teacher = case()
    log_q = (teacher / temperature).log_softmax(-1)
    batch["teacher_top"], batch["teacher_top_ids"] = log_q.topk(V, -1)
    log_p = (outputs["logits"] / temperature).log_softmax(-1)
    dense = each(temperature**2 * (log_q.exp() * (log_q - log_p)).sum(-1), batch)
    sparse = TopKL(temperature)(outputs, batch)
    torch.testing.assert_close(sparse, dense, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient(sparse, outputs), gradient(dense, outputs), rtol=1e-12, atol=1e-12)
    along = {**batch, "teacher_logits": teacher}
    torch.testing.assert_close(TopKL(temperature)(outputs, along), dense, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("k", [1, 8, 32])
def test_the_sparse_divergence_is_a_lower_bound_and_zero_at_the_teacher(k: int) -> None:
    """Prevents: a student that is pushed to put all of its mass on the k tokens."""
    outputs, batch, teacher = case(k)
    log_q, log_p = teacher.log_softmax(-1), outputs["logits"].log_softmax(-1)
    dense = each((log_q.exp() * (log_q - log_p)).sum(-1), batch)
    sparse = TopKL()(outputs, batch)
    assert bool((sparse <= dense).all()) and bool((sparse > 0).all())
    same: dict[str, Tensor] = {"logits": teacher.clone().requires_grad_()}
    at_teacher = TopKL()(same, batch)
    torch.testing.assert_close(at_teacher, torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)
    assert float(gradient(at_teacher, same).abs().max()) < 1e-12


def test_few_tokens_have_the_dense_gradient_where_the_teacher_is_sure() -> None:
    """Prevents: a cache that costs more than two percent of the gradient."""
    outputs, batch, teacher = case(32, peak=4.0)
    log_q, log_p = teacher.log_softmax(-1), outputs["logits"].log_softmax(-1)
    dense = gradient(each((log_q.exp() * (log_q - log_p)).sum(-1), batch), outputs)
    sparse = gradient(TopKL()(outputs, batch), outputs)
    assert float((sparse - dense).norm() / dense.norm()) < 0.02


def test_a_uniform_teacher_is_label_smoothing() -> None:
    """Prevents: a gain of the teacher's that is one of smoothing under another name."""
    outputs, batch, _ = case()
    batch["teacher_top"] = torch.full_like(batch["teacher_top"], -torch.tensor(float(V)).log())
    epsilon = 0.1
    mixed = (1 - epsilon) * TokenCrossEntropy()(outputs, batch) + epsilon * TopKL()(outputs, batch)
    smooth = (1 - epsilon) * TokenCrossEntropy()(outputs, batch) + epsilon * Smooth()(outputs, batch)
    reference = gradient(TokenCrossEntropy(epsilon)(outputs, batch), outputs)
    torch.testing.assert_close(gradient(mixed, outputs), reference, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(gradient(smooth, outputs), reference)


def test_the_penalty_is_the_entropys() -> None:
    """Prevents: a penalty of the wrong sign."""
    outputs, batch, _ = case()
    entropy = torch.distributions.Categorical(logits=outputs["logits"]).entropy()
    expected = torch.tensor(float(V), dtype=torch.float64).log() - each(entropy, batch)
    torch.testing.assert_close(Confidence()(outputs, batch), expected)
    assert bool((Confidence()(outputs, batch) > 0).all())


def test_the_teachers_confidences_are_a_divergence_from_an_even_rest() -> None:
    """Prevents: the control keeping what it is to leave out."""
    outputs, batch, teacher = case()
    q = torch.zeros(3, 5, V, dtype=torch.float64)
    gold = batch["teacher_gold"].exp()
    q += ((1 - gold) / (V - 1))[..., None]
    q.scatter_(-1, batch["labels"].clamp_min(0)[..., None], gold[..., None])
    dense = F.kl_div(outputs["logits"].log_softmax(-1), q, reduction="none").sum(-1)
    torch.testing.assert_close(TeacherConfidences()(outputs, batch), each(dense, batch))
    along = {**batch, "teacher_gold": batch["teacher_gold"] * torch.nan, "teacher_logits": teacher}
    torch.testing.assert_close(TeacherConfidences()(outputs, along), each(dense, batch))


@pytest.mark.parametrize("term", [TokenCrossEntropy(0.1), TopKL(), Smooth(), Confidence(), TeacherConfidences()])
def test_nothing_reaches_the_padding(term: Any) -> None:
    """Prevents: a gradient, or a NaN, from what stands beyond a summary's end."""
    outputs, batch, _ = case(8)
    with torch.no_grad():
        outputs["logits"][batch["labels"] < 0] = torch.nan
    found = gradient(term(outputs, batch), outputs)
    assert bool((found[batch["labels"] < 0] == 0).all()) and bool(found.isfinite().all())


class Noisy(torch.nn.Module):
    """Logits of a batch, with noise drawn at each pass."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits, self.passes = logits, list[Tensor]()

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        self.passes.append(self.logits + torch.randn_like(self.logits))
        return {"logits": self.passes[-1]}


def test_the_mean_of_passes_has_the_mean_gradient() -> None:
    """Prevents: a mean of logits in the place of one of probabilities; a disagreement that is none."""
    torch.manual_seed(0)
    outputs, batch, teacher = case()
    noisy: Any = Noisy(teacher.float())
    found = averaged(noisy, batch, 4, V, 1.0)
    log_p = outputs["logits"].log_softmax(-1)
    logs = [logits.double().log_softmax(-1) for logits in noisy.passes]
    mean = torch.stack([gradient(each((q.exp() * (q - log_p)).sum(-1), batch), outputs) for q in logs]).mean(0)
    read, kept = batch["labels"] >= 0, dict(batch)
    for name, values in found.items():
        kept[f"teacher_{name}"] = torch.zeros(3, 5, *values.shape[1:], dtype=torch.long if name == "top_ids" else None)
        kept[f"teacher_{name}"][read] = values
    torch.testing.assert_close(gradient(TopKL()(outputs, kept), outputs), mean, rtol=1e-4, atol=1e-6)
    q = torch.stack(logs).exp().mean(0)
    apart = torch.stack([(log.exp() * (log - q.log())).sum(-1) for log in logs]).mean(0)
    torch.testing.assert_close(found["disagreement"].double(), apart[read], rtol=1e-4, atol=1e-5)
    assert float(averaged(noisy, batch, 1, V, 1.0)["disagreement"].max()) < 1e-5
