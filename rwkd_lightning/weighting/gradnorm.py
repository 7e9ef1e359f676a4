"""Balanced gradient norms (Chen et al., GradNorm, ICML 2018, eq. 2 and algorithm 1)."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rwkd_lightning.utils.distributed import all_reduce_mean
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting.base import Step, Weighting
from rwkd_lightning.weighting.columns import Columns
from rwkd_lightning.weighting.means import quotient, sums_and_counts

INSTEAD = "use `DynamicWeightAverage()` or `Uncertainty()`"


class GradNorm(Weighting):
    """w = K·softmax(v), the same for every sample; v descends Σ_k abs(G_k − mean(G)·r_k^a), the target held constant.

    G_k = ‖∇ w_k·L_k‖ = w_k·‖∇ L_k‖ by the student's last layer, of the batch's mean loss L_k: one gradient per term, no
    double backward. r_k = (L_k/L_k(0)) / mean_j(L_j/L_j(0)) is large for a term that has fallen less than the others;
    L_k(0) is its mean in the first batch that has it. The softmax stands for the paper's renormalisation after every
    step.

    Args:
        terms: names of the K loss terms.
        lr: Adam's rate for v, > 0.
        asymmetry: a ≥ 0, how strongly slow terms are helped; 0: equal norms. The paper's α.

    Raises:
        UserError: if lr or asymmetry is out of range; by ``check``, for fewer than two terms; at the first step, if the
            student has no last layer to read or a term does not depend on it.
    """

    needs_head = True
    first: Tensor

    def __init__(self, terms: Sequence[str] = ("ce", "kd"), lr: float = 1e-2, asymmetry: float = 1.5) -> None:
        super().__init__()
        if not lr > 0:
            raise UserError(f"`lr` is {lr}; the rate of the weights must be above 0 (0.01 is usual)")
        if not 0 <= asymmetry < float("inf"):
            raise UserError(f"`asymmetry` is {asymmetry}; it must be 0 (equal norms) or above (1.5 is usual)")
        self.lr = lr
        self.asymmetry = asymmetry
        self.logits = nn.Parameter(torch.zeros(len(terms)))
        self.register_buffer("first", torch.zeros(len(terms)))  # L(0); 0: not seen yet

    def forward(self, step: Step) -> Tensor:
        return self.weights.to(step.losses.dtype).expand(len(step.losses), -1)

    def own_loss(self, step: Step) -> Tensor | None:
        total, count = sums_and_counts(step)
        means = quotient(total, count)
        first = self.with_first(means)
        norms = self.gradient_norms(step, count, means)
        idle = torch.logical_not(((count > 0) & (first > 0)).all())  # no rate to compare with
        if step.later is not None:
            step.later.idle.append(idle)
        elif bool(idle):
            return None
        first = first.masked_fill(idle, 1.0)
        ratios = means / first
        rates = ratios / ratios.mean().clamp_min(torch.finfo(ratios.dtype).tiny)
        scaled = self.weights * norms
        return (scaled - (scaled.mean() * rates**self.asymmetry).detach()).abs().sum()

    def own_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr, fused=True)

    def observe(self, step: Step) -> None:
        self.first = self.with_first(quotient(*sums_and_counts(step))).to(self.first.dtype)

    def check(self, terms: Columns) -> None:
        if len(terms) < 2:
            raise UserError(f"terms={list(terms)}: gradnorm balances several terms; give two, or use `LabelsOnly()`")

    @property
    def weights(self) -> Tensor:
        """K·softmax(v), ``(K,)``."""
        return len(self.logits) * self.logits.softmax(0)

    def with_first(self, means: Tensor) -> Tensor:
        """L(0) ``(K,)``, with this batch's means for terms not seen before."""
        return torch.where(self.first > 0, self.first.to(means.dtype), means)

    def gradient_norms(self, step: Step, count: Tensor, means: Tensor) -> Tensor:
        """‖∇ L_k‖ ``(K,)`` by the last layer, detached.

        Raises:
            UserError: if there is no such layer, or if a term seen for the first time does not depend on it.
        """
        layer = [p for p in step.shared_parameters if p.requires_grad]
        if not layer:
            raise UserError(
                f"gradnorm balances gradients by the student's last linear layer, and this student has "
                f"none that is trained; {INSTEAD}"
            )
        losses = torch.where(step.valid, step.losses, 0.0).sum(0) / count.clamp_min(1e-12)
        norms = []
        for name, loss, mean, first in zip(step.terms, losses, means, self.first, strict=True):
            gradient = torch.autograd.grad(loss, layer, retain_graph=True, allow_unused=True)
            flat = torch.cat([g.flatten().to(loss.dtype) for g in gradient if g is not None] or [loss.new_zeros(1)])
            norm = all_reduce_mean(flat).norm()
            # by its value: terms stacked into one tensor all reach what one of them reaches
            apart = (norm == 0) & (mean > 0) & (first == 0)
            if step.later is None:
                refuse(apart, name)
            else:
                step.later.finite.append(norm.masked_fill(apart, torch.nan))
                step.later.checks.append(functools.partial(refuse, apart, name))
            norms.append(norm)
        return torch.stack(norms)

    def __repr__(self) -> str:
        return f"gradnorm(lr={self.lr:g}, asymmetry={self.asymmetry:g})"


def refuse(apart: Tensor, name: object) -> None:
    """Raise UserError for a term that does not depend on the student's last layer."""
    if bool(apart):
        raise UserError(
            f"gradnorm balances gradients by the student's last layer, and the term {name!r} does "
            f"not depend on it; {INSTEAD}"
        )
