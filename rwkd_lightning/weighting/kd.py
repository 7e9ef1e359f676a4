"""Knowledge distillation with a fixed α (Hinton et al. 2015)."""

from __future__ import annotations

import torch
from torch import Tensor

from rwkd_lightning.errors import UserError
from rwkd_lightning.weighting.base import Step, Weighting
from rwkd_lightning.weighting.columns import columns


class FixedAlpha(Weighting):
    """(1 − α) on the label term, α on the teacher term and β on every other, for every sample.

    With ``terms=[ce,kd,hidden]`` that is the objective of Patient Knowledge Distillation (Sun et al. 2019, section 3.2).

    Args:
        alpha: weight of the teacher, in [0, 1].
        beta: weight of the terms beyond these two, ≥ 0.

    Raises:
        UserError: if alpha or beta is out of range; by ``check``, if the label or the teacher term is missing.
    """

    needs_batch = False

    def __init__(self, alpha: float = 0.5, beta: float = 1.0) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise UserError(f"weighting.alpha is {alpha}; the share of the teacher must lie in [0, 1]")
        if not 0 <= beta < float("inf"):
            raise UserError(f"weighting.beta is {beta}; the weight of further loss terms must be 0 or above")
        self.alpha = alpha
        self.beta = beta

    def check(self, terms: tuple[str, ...], regression: bool) -> None:
        for role in ("label", "teacher"):
            columns(terms, role)

    def forward(self, step: Step) -> Tensor:
        weights = torch.full_like(step.losses, self.beta)
        weights[:, columns(step.terms, "label")] = 1 - self.alpha
        weights[:, columns(step.terms, "teacher")] = self.alpha
        return weights

    def __repr__(self) -> str:
        return f"kd(alpha={self.alpha:g})"
