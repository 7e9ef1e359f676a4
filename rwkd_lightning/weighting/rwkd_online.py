"""RW-KD without a network: weights straight from the perturbation of this batch (form B; Ren et al. 2018)."""

from __future__ import annotations

import torch
from torch import Tensor

from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting.base import Step, Weighting


class PerturbationRWKD(Weighting):
    """w_ik = max(u_ik, δ) / Σ_k max(u_ik, δ), normalised within the sample; no memory between steps.

    Two public re-implementations of the paper's Algorithm 1 agree on this form.

    Args:
        delta: floor of u, > 0; it matters by its sign only: one u above it takes all the weight, none shares it evenly.

    Raises:
        UserError: if delta is not positive.
    """

    needs_influence = True
    has_memory = False
    collapse_remedy = "use `RWKD()`, whose entropy term holds against it"

    def __init__(self, delta: float = 1e-8) -> None:
        super().__init__()
        if not delta > 0:
            raise UserError(f"`delta` is {delta}; it must be above 0 (1e-8 is usual)")
        self.delta = delta

    def forward(self, step: Step) -> Tensor:
        if step.influence is None:  # before the first meta step
            return torch.full_like(step.losses, 1 / len(step.terms))
        clipped = step.influence.clamp_min(self.delta)
        return clipped / clipped.sum(1, keepdim=True)

    def __repr__(self) -> str:
        return "rwkd_online"
