"""Weighted soft labels (Zhou et al., Rethinking Soft Labels for Knowledge Distillation, ICLR 2021, section 4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rwkd_lightning.terms.base import at_least_float32
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting.base import Step, Weighting
from rwkd_lightning.weighting.columns import Columns, only


class WeightedSoftLabels(Weighting):
    """1 on the label term and α·w_i on the teacher term, w_i = 1 − exp(−CE_s/(CE_t + 1e-7)).

    CE_s and CE_t are student's and teacher's cross-entropy with the label, at temperature 1 and detached. A student
    that is better on a sample than its teacher gets less of the soft label.

    The weights are not shares of 1: the label term always has 1, and the teacher term is added to it. So a row without
    a label (−1), of which nobody can say who is better, has weights 0 and α (w_i = 1), and not 1 + α.

    Args:
        alpha: weight of the teacher term, ≥ 0; 2.5 with T = 2 in the paper.
        output: the teacher's output that its cross-entropy is computed from.

    Raises:
        UserError: if alpha is negative or infinite; by ``check``, without label or teacher term.
    """

    needs_batch = False
    needs = frozenset({"classes"})
    instead = "`FixedAlpha()` or `TeacherAnnealing()`"

    def __init__(self, alpha: float = 2.5, output: str = "logits") -> None:
        super().__init__()
        if not 0 <= alpha < float("inf"):
            raise UserError(f"`alpha` is {alpha}; the weight of the soft labels must be 0 or above (2.5 is usual)")
        self.alpha = alpha
        self.output = output

    def forward(self, step: Step) -> Tensor:
        label, teachers = step.columns("label")[0], step.columns("teacher")
        student, known = step.losses[:, label].detach(), step.valid[:, label]
        logits = at_least_float32(step.batch[f"teacher_{self.output}"].detach())
        teacher = F.cross_entropy(logits, step.batch["labels"], ignore_index=-1, reduction="none").to(student.dtype)
        share = torch.where(known, -torch.expm1(-student / (teacher + 1e-7)), 1.0)
        of_label = known.to(student.dtype)[:, None] * step.marked([label])
        return of_label + (self.alpha * share)[:, None] * step.marked(teachers)

    def check(self, terms: Columns) -> None:
        only(terms, ("label", "teacher"), "wls")

    def __repr__(self) -> str:
        return f"wls(alpha={self.alpha:g})"
