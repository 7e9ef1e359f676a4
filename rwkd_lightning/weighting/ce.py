"""Plain fine-tuning: the labels only."""

from __future__ import annotations

from torch import Tensor

from rwkd_lightning.weighting.base import Step, Weighting
from rwkd_lightning.weighting.columns import columns


class LabelsOnly(Weighting):
    """Weight 1 on the label term (the first of CE or squared error to the label), 0 elsewhere.

    Rows without a label weigh nothing.

    Raises:
        UserError: by ``check``, if there is no label term.
    """

    needs_batch = False

    def check(self, terms: tuple[str, ...], regression: bool) -> None:
        columns(terms, "label")

    def forward(self, step: Step) -> Tensor:
        weights = step.losses.new_zeros(step.losses.shape)
        weights[:, columns(step.terms, "label")] = 1.0
        return weights

    def __repr__(self) -> str:
        return "ce"
