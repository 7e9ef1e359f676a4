"""Control: the same meta step, but one learned weight vector for all samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rwkd_lightning.weighting.base import Step
from rwkd_lightning.weighting.meta_learned import MetaLearned


class GlobalAlpha(MetaLearned):
    """w = softmax(g), the same for every sample; what RW-KD gains over it is what the samples are worth.

    Args:
        terms: names of the K loss terms.
        lr: Adam's rate for g.
        entropy: τ of ``MetaLearned``.
    """

    reads_influence = False

    def __init__(self, terms: Sequence[str] = ("ce", "kd"), lr: float = 3e-3, entropy: float = 0.0) -> None:
        super().__init__(lr, entropy)
        self.logits = nn.Parameter(torch.zeros(len(terms)))

    def forward(self, step: Step) -> Tensor:
        return self.logits.softmax(0).expand(len(step.losses), -1)

    def __repr__(self) -> str:
        return f"global(lr={self.lr:g}, entropy={self.entropy:g})"
