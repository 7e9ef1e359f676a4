"""The LightningModule of topic models: the loop of every system, and the held-out documents' likelihood to choose an
epoch by.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rwkd_lightning.systems.topics.model import TopicModel
from rwkd_lightning.training.module import DistillationModule

MONITOR = "likelihood"
"""Of the held-out documents, nats per word."""


class Likelihood:
    """A `Validation` by the held-out documents' log-likelihood per word."""

    def __init__(self) -> None:
        self.documents: list[tuple[Tensor, Tensor]] = []

    def update(self, student: nn.Module, batch: dict[str, Tensor]) -> None:
        model: Any = student
        self.documents.append(
            (log_likelihoods(model, batch, model.mixture(*model.encode(batch))).cpu(), batch["counts"].sum(1).cpu())
        )

    def compute(self) -> dict[str, Tensor]:
        if not self.documents:
            return {}
        likelihoods, words = (torch.cat(column) for column in zip(*self.documents, strict=True))
        self.documents.clear()
        return {MONITOR: likelihoods.sum() / words.sum()}


class TopicDistillationModule(DistillationModule):
    """Trains a topic model on mean_i Σ_k w_ik·l_ik over documents i and the terms k of ``L`` in Adhya and Sanyal 2023:

    L = (1 − α)·(prior_kl + reconstruction) + α·(w2 + soft_ce), with ``weighting=kd``; any other method gives its own
    weights. Arguments as of `DistillationModule`; the teacher is a `TeacherWords`, or None.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        options["validation"] = Likelihood()
        super().__init__(*args, **options)


class TeacherWords(nn.Module):
    """A frozen teacher's distribution of words, from what is cached of it: ``teacher_theta`` ``(B, K)`` to ``logits``
    ``(B, V)``.

    Args:
        teacher: the trained model.
        normalised: False: θβ without batch normalisation, as in the released code, whose softmax is nearly flat; True:
            BN(θβ) by the running statistics, what the teacher itself says.
    """

    def __init__(self, teacher: TopicModel, normalised: bool = False) -> None:
        super().__init__()
        self.register_buffer("beta", teacher.beta.detach().clone())
        self.norm = teacher.norm_words if normalised else nn.Identity()

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        beta: Any = self.beta
        return {"logits": self.norm(batch["teacher_theta"] @ beta)}


@torch.no_grad()
def log_likelihoods(model: TopicModel, batch: dict[str, Tensor], theta: Tensor) -> Tensor:
    """log p(document | θ) ``(B,)``, in nats, without the multinomial coefficient."""
    logits: Tensor = model.norm_words(theta @ model.beta)
    return (batch["counts"] * logits.float().log_softmax(1)).sum(1)
