"""The inputs of the meta-network for a summary: means over its tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rwkd_lightning.systems.summaries.terms.confidences import gold
from rwkd_lightning.weighting.base import Step

TAUGHT = ("gold", "entropy", "disagreement")


class TokenFeatures(nn.Module):
    """``(B, 8)``: of the student the means of −log p[y], of p[y] and of its entropy; of the teacher those of −log q[y],
    of its entropy and of its disagreement with itself (`top_k`), 0 where it has other tokens; the least p[y]; the
    logarithm of the number of tokens. Entropies are in units of log V.
    """

    width = 8

    @torch.no_grad()
    def forward(self, step: Step) -> Tensor:
        batch, labels = step.batch, step.batch["labels"]
        read = labels >= 0
        log_p = torch.where(read[..., None], step.outputs["logits"].float(), 0).log_softmax(-1)
        own = log_p.gather(-1, labels.clamp_min(0)[..., None])[..., 0]
        scale = math.log(log_p.shape[-1])
        entropy = -(log_p.exp() * log_p).sum(-1) / scale
        theirs = [batch.get(f"teacher_{name}", torch.zeros_like(own)) for name in TAUGHT]
        if "teacher_logits" in batch:
            log_q = batch["teacher_logits"].float().log_softmax(-1)
            theirs[:2] = [gold(batch, "features"), -(log_q.exp() * log_q).sum(-1)]
        count = read.sum(1).clamp_min(1)

        def mean(values: Tensor) -> Tensor:
            return torch.where(read, values, 0).sum(1) / count

        least = torch.where(read, own.exp(), 1).amin(1)
        said = [-own, own.exp(), entropy, -theirs[0], theirs[1] / scale, theirs[2]]
        return torch.stack([*map(mean, said), least, count.float().log()], 1)
