"""Teacher annealing (Clark et al., BAM! Born-Again Multi-Task Networks, ACL 2019, section 3.2)."""

from __future__ import annotations

from torch import Tensor

from rwkd_lightning.weighting.base import Step, Weighting
from rwkd_lightning.weighting.columns import Columns, only


class TeacherAnnealing(Weighting):
    """1 − α on the label term and α on the teacher term, α = 1 − progress: from the teacher alone to the labels alone.

    The paper anneals the target, λ·y + (1 − λ)·t. For cross-entropies and for squared errors that has the gradient of
    the two losses so weighted; here the teacher's has the factor T² of ``kd`` besides. A row without a label learns
    from the teacher to the end, as under ``kd``.

    Raises:
        UserError: by ``check``, if there is no label or no teacher term.
    """

    needs_batch = False

    def forward(self, step: Step) -> Tensor:
        label, teacher = (step.marked(step.columns(role)) for role in ("label", "teacher"))
        return (step.progress * label + (1 - step.progress) * teacher).expand(step.losses.shape)

    def check(self, terms: Columns) -> None:
        only(terms, ("label", "teacher"), "annealed")

    def __repr__(self) -> str:
        return "annealed"
