"""Annealing-KD: first the teacher's logits, growing to their full size, then the labels alone (Jafari et al. 2021)."""

from __future__ import annotations

from torch import Tensor

from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting.base import Step, Weighting
from rwkd_lightning.weighting.columns import Columns, only


class AnnealingKD(Weighting):
    """Weight 1 on ``terms.AnnealedMSE`` in stage 1 and 1 on the label term in stage 2.

    The two stages are parts of one training, under one optimizer and one schedule; the released code starts both again,
    from the best student of stage 1. Rows without a label weigh nothing in stage 2.

    Jafari et al., Annealing Knowledge Distillation, EACL 2021, https://arxiv.org/abs/2104.07163, section 3.

    Args:
        stage_one: share of the training in stage 1, in (0, 1].

    Raises:
        UserError: if stage_one is out of range; by ``check``, if one of the two terms is missing.
    """

    needs_batch = False

    def __init__(self, stage_one: float = 0.75) -> None:
        super().__init__()
        if not 0 < stage_one <= 1:
            raise UserError(f"`stage_one` is {stage_one}; the share of the training must lie in (0, 1]")
        self.stage_one = stage_one

    def check(self, terms: Columns) -> None:
        only(terms, ("label", "annealed"), "annealing_kd")

    def forward(self, step: Step) -> Tensor:
        role = "annealed" if step.progress < self.stage_one else "label"
        return step.marked(step.columns(role)).expand(step.losses.shape)

    def __repr__(self) -> str:
        return f"annealing_kd(stage_one={self.stage_one:g})"
