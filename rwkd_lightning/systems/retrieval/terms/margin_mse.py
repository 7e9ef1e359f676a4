"""Squared difference of the margins of student and teacher (Hofstätter et al., arXiv 2010.02666, 2020)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rwkd_lightning.terms import Term
from rwkd_lightning.utils.errors import UserError


class MarginMSE(Term):
    """l_i = mean_j ((S_i+ − S_ij) − c·(T_i+ − T_ij))² over the mined negatives j of row i.

    A row without a mined negative has no value. Reads ``logits`` S and ``teacher_logits`` T ``(B, U)``, ``labels``
    ``(B,)`` and ``mined`` ``(B, U)``, true for the row's own negatives.

    Args:
        scale: c, the student's units a unit of the teacher's.
        name, output, teacher_output: as of ``Term``.

    Raises:
        UserError: if c is not positive.
    """

    name = "margin_mse"
    role = "teacher"
    preference = 1
    needs = frozenset({"candidates"})

    def __init__(
        self,
        scale: float = 1.0,
        name: str | None = None,
        output: str | None = None,
        teacher_output: str | None = None,
    ) -> None:
        super().__init__(name, output, teacher_output)
        if not 0 < scale < float("inf"):
            raise UserError(f"scale is {scale}; it must be above 0")
        self.scale = scale

    def forward(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        mined, own = batch["mined"], batch["labels"][:, None]
        student, teacher = self.prediction(outputs, batch), self.target(batch)
        margins = (student.gather(1, own) - student) - self.scale * (teacher.gather(1, own) - teacher)
        return torch.where(mined, margins, 0).square().sum(1) / mined.sum(1).clamp_min(1)

    def valid(self, batch: Mapping[str, Tensor]) -> Tensor:
        return super().valid(batch) & batch["mined"].any(1)

    def extra_repr(self) -> str:
        return f"scale={self.scale:g}"
