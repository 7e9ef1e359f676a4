"""Learning to reweight examples: one weight per sample from the perturbation of this batch (Ren et al. 2018)."""

from __future__ import annotations

import torch
from torch import Tensor

from rwkd_lightning.utils.distributed import all_reduce_mean
from rwkd_lightning.weighting.base import Step, Weighting, masked
from rwkd_lightning.weighting.columns import Columns
from rwkd_lightning.weighting.kd import FixedAlpha


class LearningToReweight(Weighting):
    """v_i·(1 − α, α) with v_i = max(u_i, 0) / mean_j max(u_j, 0) and u_i = (1 − α)·u_i,CE + α·u_i,KD; no memory.

    u_i is, up to a factor that cancels, −∂L_meta/∂ε_i at ε = 0, ε_i the weight of the fixed-α loss of sample i in the
    student's step; for a row without a label that loss is KD alone. The mean runs over the batch on all ranks: the
    student minimises the mean over samples, so Σ_i v_i = n is the paper's Σ_i w_i = 1 under a sum. No u_i above 0: all
    weights are 0, and the step brings no gradient. Before the first meta step v_i = 1.

    Ren et al., Learning to Reweight Examples for Robust Deep Learning, ICML 2018, https://arxiv.org/abs/1803.09050,
    section 3.3 and algorithm 1.

    Args:
        alpha: weight of the teacher in the loss of a sample, in [0, 1].
        beta: weight of further terms in it, ≥ 0.

    Raises:
        UserError: if alpha or beta is out of range; by ``check``, as ``FixedAlpha`` does.
    """

    needs_influence = True
    has_memory = False

    def __init__(self, alpha: float = 0.5, beta: float = 1.0) -> None:
        super().__init__()
        self.fixed = FixedAlpha(alpha, beta)

    def check(self, terms: Columns) -> None:
        self.fixed.check(terms)

    def forward(self, step: Step) -> Tensor:
        fixed = masked(self.fixed(step), step.valid)
        if step.influence is None:
            return fixed
        clipped = (fixed * step.influence).sum(1).clamp_min(0)
        mean = all_reduce_mean(clipped.mean())
        return torch.where(mean == 0, 0.0, clipped / mean)[:, None] * fixed

    def __repr__(self) -> str:
        return f"l2rw(alpha={self.fixed.alpha:g})"
