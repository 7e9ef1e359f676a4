"""Plain fine-tuning: the labels only."""

from __future__ import annotations

from torch import Tensor

from rwkd_lightning.weighting.base import Step, Weighting
from rwkd_lightning.weighting.columns import Columns, columns


class LabelsOnly(Weighting):
    """Weight 1 on the label term, 0 elsewhere.

    Rows without a label weigh nothing.

    Raises:
        UserError: by ``check``, if there is no label term.
    """

    needs_batch = False

    def check(self, terms: Columns) -> None:
        columns(terms, "label")

    def forward(self, step: Step) -> Tensor:
        return step.marked(step.columns("label")).expand(step.losses.shape)

    def __repr__(self) -> str:
        return "ce"
