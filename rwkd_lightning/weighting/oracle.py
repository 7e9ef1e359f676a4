"""The ceiling: weights that know which labels and teacher outputs are corrupted."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rwkd_lightning.utils.constants import constant
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting.base import Step, Weighting
from rwkd_lightning.weighting.columns import Columns, only

FLAGS = ("label_flipped", "teacher_corrupted")


class Oracle(Weighting):
    """Both sound: ½ and ½; one sound: 1 on it; none: 0. For data corrupted on purpose only.

    A role with several terms gives each of them the same; all weights of a sample sum to 1.

    Raises:
        UserError: by ``prepare``, if nothing is corrupted (neither ``data.label_noise`` nor ``data.teacher_noise`` is
            set); by ``check``, without a label or a teacher term, or with others beside them.
    """

    needs_batch = False
    reads_columns = FLAGS

    def prepare(self, training_set: Mapping[str, Tensor]) -> None:
        if not any(name in training_set and bool(training_set[name].any()) for name in FLAGS):
            raise UserError("oracle needs to know what is corrupted: set `label_flipped` or `teacher_corrupted`")

    def check(self, terms: Columns) -> None:
        only(terms, ("label", "teacher"), "oracle")

    def forward(self, step: Step) -> Tensor:
        sound = step.losses.new_zeros(step.losses.shape)
        for role, name in zip(("label", "teacher"), FLAGS, strict=True):
            none = constant((0.0,), sound.dtype, sound.device)
            corrupted = step.batch.get(name, none)  # a system may lack one of them
            sound = sound + torch.logical_not(corrupted).to(sound.dtype)[:, None] * step.marked(step.columns(role))
        return sound / sound.sum(1, keepdim=True).clamp_min(1)

    def __repr__(self) -> str:
        return "oracle"
