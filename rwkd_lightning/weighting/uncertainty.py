"""Weights by homoscedastic uncertainty (Kendall, Gal and Cipolla, Multi-Task Learning Using Uncertainty, CVPR 2018, eq.
7).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting.base import Step, Weighting
from rwkd_lightning.weighting.means import quotient, sums_and_counts

INITIAL = -0.5  # of s: weights of 0.82


class Uncertainty(Weighting):
    """w_k = 1/(2·exp s_k), the same for every sample; s descends Σ_k L_k/(2·exp s_k) + s_k/2 along with the student.

    L_k is the mean loss of term k in the batch, and s_k the logarithm of its variance: at the optimum exp s_k = L_k.
    The weights are not shares of 1, so a row without a label keeps the weight of its other terms, neither more nor
    less.

    Args:
        terms: names of the K loss terms.
        lr: Adam's rate for s, > 0. At the student's 2e-5 they would stay where they start.

    Raises:
        UserError: if lr is not positive.
    """

    def __init__(self, terms: Sequence[str] = ("ce", "kd"), lr: float = 1e-2) -> None:
        super().__init__()
        if not lr > 0:
            raise UserError(f"`lr` is {lr}; the rate of the uncertainties must be above 0 (0.01 is usual)")
        self.lr = lr
        self.log_variances = nn.Parameter(torch.full((len(terms),), INITIAL))

    def forward(self, step: Step) -> Tensor:
        return torch.where(step.valid, self.precisions, 0.0)

    def own_loss(self, step: Step) -> Tensor:
        total, count = sums_and_counts(step)
        likelihood = quotient(total, count) * self.precisions + self.log_variances / 2
        return torch.where(count > 0, likelihood, 0.0).sum()  # a term that no row here has says nothing of its variance

    def own_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr, fused=True)

    @property
    def precisions(self) -> Tensor:
        """1/(2·exp s), ``(K,)``."""
        return (-self.log_variances).exp() / 2

    def __repr__(self) -> str:
        return f"uncertainty(lr={self.lr:g})"
