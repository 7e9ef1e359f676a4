"""The inputs of the meta-network for a query's row: those of a classification whose classes are the candidates."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rwkd_lightning.weighting import ClassificationFeatures
from rwkd_lightning.weighting.base import Step


class CandidateFeatures(nn.Module):
    """`ClassificationFeatures` at temperature 1, the entropies divided by log U, as batches differ in U: ``(B, 8)``."""

    width = ClassificationFeatures.width

    def __init__(self) -> None:
        super().__init__()
        self.of_candidates = ClassificationFeatures(1.0)

    @torch.no_grad()
    def forward(self, step: Step) -> Tensor:
        values: Tensor = self.of_candidates(step)
        candidates = step.outputs["logits"].shape[1]
        return torch.cat([values[:, :5], values[:, 5:7] / math.log(max(2, candidates)), values[:, 7:]], 1)
