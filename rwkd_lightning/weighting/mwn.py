"""Meta-Weight-Net: a network weights each sample by its loss (Shu et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting.base import Step, masked
from rwkd_lightning.weighting.columns import Columns
from rwkd_lightning.weighting.kd import FixedAlpha
from rwkd_lightning.weighting.meta_learned import MetaLearned, in_full_precision


class MetaWeightNet(MetaLearned):
    """v_i·(1 − α, α) with one weight per sample, v_i = sigmoid(g_φ(ℓ_i)) in (0, 1), of its detached fixed-α loss ℓ_i.

    ℓ_i = (1 − α)·CE_i + α·KD_i, all of it KD_i for a row without a label; g_φ is an MLP 1-100-1 with ReLU. A row's
    weights sum to v_i and are no distribution over the terms, so there is no entropy term. The last layer starts at
    zero: v_i = ½ until the first meta step.

    Shu et al., Meta-Weight-Net: Learning an Explicit Mapping For Sample Weighting, NeurIPS 2019,
    https://arxiv.org/abs/1902.07379, equations (3) to (6).

    Args:
        alpha: weight of the teacher in ℓ_i, in [0, 1].
        beta: weight of further terms in it, ≥ 0.
        hidden: units of the network's hidden layer.
        lr: Adam's rate for φ; 1e-3 is the released code's (Adam does not see the scale of u, so it means the same
            here).

    Raises:
        UserError: if alpha, beta, hidden or lr is out of range; by ``check``, as ``FixedAlpha`` does.
    """

    reads_influence = False
    collapse_remedy = None  # the shares of the terms are α's

    def __init__(self, alpha: float = 0.5, beta: float = 1.0, hidden: int = 100, lr: float = 1e-3) -> None:
        super().__init__(lr)
        if hidden < 1:
            raise UserError(f"`hidden` is {hidden}; the meta-network needs at least one hidden unit")
        self.fixed = FixedAlpha(alpha, beta)
        last = nn.Linear(hidden, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.network = nn.Sequential(nn.Linear(1, hidden), nn.ReLU(), last)

    def check(self, terms: Columns) -> None:
        self.fixed.check(terms)

    def forward(self, step: Step) -> Tensor:
        fixed = masked(self.fixed(step), step.valid)
        loss = (fixed * step.losses.detach()).sum(1, keepdim=True)
        return torch.sigmoid(in_full_precision(self.network, loss)) * fixed

    def __repr__(self) -> str:
        return f"mwn(alpha={self.fixed.alpha:g}, lr={self.lr:g})"
