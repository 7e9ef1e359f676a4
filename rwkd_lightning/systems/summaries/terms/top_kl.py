"""Divergence from the teacher's likeliest tokens and the mass of all others."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rwkd_lightning.systems.summaries.terms.base import TokenTerm
from rwkd_lightning.terms.base import at_least_float32, of_teacher
from rwkd_lightning.utils.errors import UserError


class TopKL(TokenTerm):
    """l_it = T²·[Σ_{v in top} q_v·log(q_v/p_v) + r·log(r/(1 − Σ_top p_v))] from ``teacher_top`` (log q, ``(B, T, k)``),
    ``teacher_top_ids`` ``(B, T, k)`` and ``teacher_rest`` (log r, ``(B, T)``).

    The rest counts as one token, so this is a lower bound of KL(q ‖ p), by the log-sum inequality, and equal to it at
    k = V. Without r the student would be pushed to put all of its mass on the k tokens. Rounded probabilities are
    scaled to a sum of 1. Where the batch has ``teacher_logits`` ``(B, T, V)`` it is KL(q ‖ p).

    Args:
        temperature: T > 0; the teacher's probabilities must be those at this T.
        length_weighted, name, output: as of `TokenTerm`.

    Raises:
        UserError: if T is not positive.
    """

    name = "top_kl"
    role = "teacher"
    preference: int | None = 0

    def __init__(
        self,
        temperature: float = 1.0,
        length_weighted: bool = False,
        name: str | None = None,
        output: str | None = None,
    ) -> None:
        super().__init__(length_weighted, name, output)
        if not 0 < temperature < float("inf"):
            raise UserError(f"temperature is {temperature}; it must be above 0 (1 to 2 are usual)")
        self.temperature = temperature

    def forward(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        if "teacher_logits" in batch:
            return self.dense(outputs, batch)
        log_q = at_least_float32(of_teacher(batch, "top", self.name))
        log_r = at_least_float32(of_teacher(batch, "rest", self.name))[..., None]
        ids = of_teacher(batch, "top_ids", self.name)
        log_p = (self.prediction(outputs, batch) / self.temperature).log_softmax(-1)
        mine = log_p.gather(-1, ids)
        if ids.shape[-1] < log_p.shape[-1]:
            rest = log_p.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)  # not 1 − Σp, which would cancel
            mine, log_q = torch.cat([mine, rest], -1), torch.cat([log_q, log_r], -1)
        q = log_q.exp()
        total = q.sum(-1, keepdim=True).clamp_min(torch.finfo(q.dtype).tiny)
        q = q / total
        return self.temperature**2 * self.of_samples((torch.xlogy(q, q) - q * mine).sum(-1), batch)

    def dense(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        """From all of the teacher's logits."""
        log_p = (self.prediction(outputs, batch) / self.temperature).log_softmax(-1)
        log_q = (self.target(batch) / self.temperature).log_softmax(-1)
        return self.temperature**2 * self.of_samples((log_q.exp() * (log_q - log_p)).sum(-1), batch)
