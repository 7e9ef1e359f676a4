"""The inputs of the meta-network for a document under a topic model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rwkd_lightning.terms.base import at_least_float32
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting.base import Step


class TopicFeatures(nn.Module):
    """log1p of the document's length and of its negative log-likelihood per word, the same for the divergence from the
    prior, and of student and, where the batch has it, teacher the entropy of θ, with their inner product: ``(B, 6)``; 0
    without a teacher.

    Args:
        terms: names of the loss terms.

    Raises:
        UserError: if they are not those of a topic model.
    """

    width = 6

    def __init__(self, terms: Sequence[str]) -> None:
        super().__init__()
        if "reconstruction" not in terms:
            raise UserError(
                "meta_features: TopicFeatures reads the reconstruction of documents, and "
                f"terms={list(terms)} has none; leave meta_features out for another task, or add the term"
            )

    @torch.no_grad()
    def forward(self, step: Step) -> Tensor:
        words = step.batch["counts"].sum(1)
        losses = dict(zip(step.terms, at_least_float32(step.losses.detach()).T, strict=True))
        nothing = torch.zeros_like(words)
        student = at_least_float32(step.outputs["theta"]).clamp_min(1e-12)
        teacher = (
            at_least_float32(step.batch["teacher_theta"]).clamp_min(1e-12) if "teacher_theta" in step.batch else None
        )
        return torch.stack(
            [
                torch.log1p(words),
                torch.log1p(losses.get("reconstruction", nothing) / words.clamp_min(1)),
                torch.log1p(losses.get("prior_kl", nothing).clamp_min(0)),
                -(student * student.log()).sum(1),
                nothing if teacher is None else -(teacher * teacher.log()).sum(1),
                nothing if teacher is None else (student * teacher).sum(1),
            ],
            1,
        )
