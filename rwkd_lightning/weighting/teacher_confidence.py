"""α by the teacher's confidence in the label: ADA-KD as the code of TGeo-KD (Hu et al., ICLR 2024) has it."""

from __future__ import annotations

import torch
from torch import Tensor

from rwkd_lightning.terms.base import at_least_float32
from rwkd_lightning.weighting.base import Step, Weighting
from rwkd_lightning.weighting.columns import Columns, only


class TeacherConfidence(Weighting):
    """α_i = max(0, t_y − Σ_{c≠y} t_c/(C − 1)) on the teacher term and 1 − α_i on the label term.

    t are the teacher's probabilities at temperature 1: α is 1 for a teacher that is certain of the label, 0 for one
    that is no better than even. A row without a label (−1) has α = 1, since only the teacher speaks for it.

    Args:
        output: the teacher's output that its probabilities are computed from.

    Raises:
        UserError: by ``check``, if there is no label or no teacher term.
    """

    needs_batch = False
    needs = frozenset({"classes"})
    instead = "`FixedAlpha()` or `TeacherAnnealing()`"

    def __init__(self, output: str = "logits") -> None:
        super().__init__()
        self.output = output

    def forward(self, step: Step) -> Tensor:
        probabilities = at_least_float32(step.batch[f"teacher_{self.output}"].detach()).softmax(1)
        labels = step.batch["labels"]
        of_label = probabilities.gather(1, labels.clamp_min(0)[:, None])[:, 0]
        others = (1 - of_label) / (probabilities.shape[1] - 1)
        alpha = torch.where(labels >= 0, (of_label - others).clamp_min(0), 1.0).to(step.losses.dtype)
        label, teacher = (step.marked(step.columns(role)) for role in ("label", "teacher"))
        return (1 - alpha)[:, None] * label + alpha[:, None] * teacher

    def check(self, terms: Columns) -> None:
        only(terms, ("label", "teacher"), "teacher_confidence")

    def __repr__(self) -> str:
        return "teacher_confidence"
