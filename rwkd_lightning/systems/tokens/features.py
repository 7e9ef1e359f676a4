"""The inputs of the meta-network for a sentence: those of a classification, averaged over its words."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from rwkd_lightning.weighting import ClassificationFeatures
from rwkd_lightning.weighting.base import Step


class WordFeatures(nn.Module):
    """The mean of `ClassificationFeatures` over the words that student and teacher read, and the smallest p_t[y]:
    ``(B, 9)``.

    Args:
        temperature: T of KD.
    """

    width = ClassificationFeatures.width + 1

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__()
        self.of_words = ClassificationFeatures(temperature)

    @torch.no_grad()
    def forward(self, step: Step) -> Tensor:
        labels, taught = step.batch["labels"], step.batch["taught"]
        rows, words = labels.shape
        mask = taught[..., None]
        flat = {
            "labels": labels.masked_fill(~taught, -1).flatten(),
            "teacher_logits": torch.where(mask, step.batch["teacher_logits"], 0).flatten(0, 1),
            "index": torch.arange(rows * words, device=labels.device),
        }
        student = torch.where(mask, step.outputs["logits"], 0).flatten(0, 1)
        values: Tensor = self.of_words(replace(step, outputs={"logits": student}, batch=flat)).reshape(rows, words, -1)
        mean = torch.where(mask, values, 0).sum(1) / mask.sum(1).clamp_min(1)
        least = torch.where(taught, values[..., 3], 1).amin(1)
        return torch.cat([mean, least[:, None]], 1)
