"""Two stages: first whatever is distilled, then the labels alone (Wu et al., Universal-KD, EMNLP 2021)."""

from __future__ import annotations

from torch import Tensor

from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting.base import Step, Weighting
from rwkd_lightning.weighting.columns import Columns


class Staged(Weighting):
    """Weight 1 on every term but the label's in stage 1, and 1 on the label's in stage 2.

    The two stages are parts of one training, under one optimizer and one schedule. Rows without a label weigh nothing
    in stage 2.

    Args:
        stage_one: share of the training in stage 1, in (0, 1]. The paper's is not known to us.

    Raises:
        UserError: if stage_one is out of range; by ``check``, if there is no label term, or none beside it.
    """

    needs_batch = False

    def __init__(self, stage_one: float = 0.75) -> None:
        super().__init__()
        if not 0 < stage_one <= 1:
            raise UserError(f"`stage_one` is {stage_one}; the share of the training must lie in (0, 1]")
        self.stage_one = stage_one

    def check(self, terms: Columns) -> None:
        labels = terms.having("label")
        if not labels or len(labels) == len(terms):
            raise UserError(
                f"terms={list(terms)}: staged has a stage for what is distilled and one for the labels; give a "
                "label term and another one, as terms=[ce,kd]"
            )

    def forward(self, step: Step) -> Tensor:
        label = step.marked(step.columns("label"))
        return (1 - label if step.progress < self.stage_one else label).expand(step.losses.shape)

    def __repr__(self) -> str:
        return f"staged(stage_one={self.stage_one:g})"
