"""The control that knows how sure the teacher is, and of nothing else."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rwkd_lightning.systems.summaries.terms.base import TokenTerm
from rwkd_lightning.terms.base import at_least_float32, of_teacher


def gold(batch: Mapping[str, Tensor], term: str) -> Tensor:
    """log q[y] of each token ``(B, T)``, from the teacher's logits where the batch has them."""
    if "teacher_logits" not in batch:
        return at_least_float32(of_teacher(batch, "gold", term))
    log_q = at_least_float32(batch["teacher_logits"]).log_softmax(-1)
    return log_q.gather(-1, batch["labels"].clamp_min(0)[..., None])[..., 0]


class TeacherConfidences(TokenTerm):
    """l_it = KL(q' ‖ p_it), where q' keeps the teacher's q_it[y_it] and spreads the rest evenly over the other V − 1
    tokens: smoothing of each token by its own ε (Zhang and Sabuncu, NeurIPS 2020). At T = 1. Arguments as of
    `TokenTerm`.
    """

    name = "confidences"
    role = "teacher"
    preference: int | None = 1

    def forward(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        log_p = self.prediction(outputs, batch).log_softmax(-1)
        mine = log_p.gather(-1, batch["labels"].clamp_min(0)[..., None])[..., 0]
        others = log_p.shape[-1] - 1
        q = gold(batch, self.name).exp().clamp(max=1)
        even = (1 - q) / others
        cross = q * mine + even * (log_p.sum(-1) - mine)
        return self.of_samples(torch.xlogy(q, q) + others * torch.xlogy(even, even) - cross, batch)
