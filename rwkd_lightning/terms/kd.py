"""Kullback-Leibler divergence from the teacher (Hinton et al. 2015)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from rwkd_lightning.terms.base import Term
from rwkd_lightning.utils.errors import UserError


class DistillationKL(Term):
    """KD_i = T²·KL(q^T_i ‖ p^T_i) from ``logits`` and ``teacher_logits``, both ``(B, C)``.

    The softmax runs over the last axis: of ``(B, T, V)`` the mean over the valid positions.

    Args:
        temperature: T > 0. The factor T² keeps the size of the gradient when T changes.
        name, output, teacher_output, mask: as of ``Term``.

    Raises:
        UserError: if T is not positive.
    """

    name = "kd"
    role = "teacher"
    preference: int | None = 0
    needs = frozenset({"probabilities"})

    def __init__(
        self,
        temperature: float = 2.0,
        name: str | None = None,
        output: str | None = None,
        teacher_output: str | None = None,
        mask: str | None = None,
    ) -> None:
        super().__init__(name, output, teacher_output, mask)
        if not 0 < temperature < float("inf"):
            raise UserError(f"temperature is {temperature}; it must be above 0 (1 to 4 are usual)")
        self.temperature = temperature

    def forward(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        log_p = (self.prediction(outputs, batch) / self.temperature).log_softmax(-1)
        log_q = (self.target(batch) / self.temperature).log_softmax(-1)
        return self.temperature**2 * self.per_sample((log_q.exp() * (log_q - log_p)).sum(-1), self.positions(batch))

    def extra_repr(self) -> str:
        return f"temperature={self.temperature:g}"
