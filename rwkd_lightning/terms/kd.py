"""Kullback-Leibler divergence from the teacher (Hinton et al. 2015)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from rwkd_lightning.terms.base import Term, at_least_float32
from rwkd_lightning.utils.errors import UserError


class DistillationKL(Term):
    """KD_i = T²·KL(q^T_i ‖ p^T_i) from ``logits`` and ``teacher_logits``, both ``(B, C)``.

    Args:
        temperature: T > 0. The factor T² keeps the size of the gradient when T changes.

    Raises:
        UserError: if T is not positive.
    """

    name = "kd"
    regression = False

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__()
        if not 0 < temperature < float("inf"):
            raise UserError(f"temperature is {temperature}; it must be above 0 (1 to 4 are usual)")
        self.temperature = temperature

    def forward(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        log_p = (at_least_float32(outputs["logits"]) / self.temperature).log_softmax(1)
        log_q = (at_least_float32(batch["teacher_logits"]) / self.temperature).log_softmax(1)
        return self.temperature**2 * (log_q.exp() * (log_q - log_p)).sum(1)

    def extra_repr(self) -> str:
        return f"temperature={self.temperature:g}"
