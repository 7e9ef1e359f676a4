"""Knowledge distillation with a fixed α (Hinton et al. 2015)."""

from __future__ import annotations

from torch import Tensor

from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting.base import Step, Weighting
from rwkd_lightning.weighting.columns import Columns, columns, has


class FixedAlpha(Weighting):
    """(1 − α) on the label term, α on the teacher term and β on every other, for every sample.

    Without a label term there is nothing to share with, and the teacher term weighs 1, as ``[ce,kd]`` has it for a row
    without a label. With ``terms=[ce,kd,hidden]`` that is the objective of Patient Knowledge Distillation (Sun et al.
    2019, section 3.2).

    Args:
        alpha: weight of the teacher, in [0, 1].
        beta: weight of the terms beyond these two, ≥ 0.

    Raises:
        UserError: if alpha or beta is out of range; by ``check``, without a teacher term, or with alpha = 0 without a
            label term.
    """

    needs_batch = False

    def __init__(self, alpha: float = 0.5, beta: float = 1.0) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise UserError(f"`alpha` is {alpha}; the share of the teacher must lie in [0, 1]")
        if not 0 <= beta < float("inf"):
            raise UserError(f"`beta` is {beta}; the weight of further loss terms must be 0 or above")
        self.alpha = alpha
        self.beta = beta

    def check(self, terms: Columns) -> None:
        columns(terms, "teacher")
        if self.alpha == 0 and not has(terms, "label"):
            raise UserError(
                f"`weighting.alpha=0` with terms={list(terms)} gives the teacher no weight, and no label term has it; "
                "use `weighting.alpha=0.5` (any above 0 means the same here)"
            )

    def forward(self, step: Step) -> Tensor:
        weights = [self.beta] * len(step.terms)
        labels = step.columns("label") if step.has("label") else []
        for k in labels:
            weights[k] = 1 - self.alpha
        for k in step.columns("teacher"):
            weights[k] = self.alpha if labels else float(self.alpha > 0)
        return step.vector(weights).expand(step.losses.shape)

    def __repr__(self) -> str:
        return f"kd(alpha={self.alpha:g})"
