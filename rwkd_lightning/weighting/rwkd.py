"""RW-KD: a network, trained along with the student by the bi-level step, weights the terms of each sample (form A).

Lu et al., RW-KD: Sample-wise Loss Terms Re-Weighting for Knowledge Distillation, Findings of EMNLP 2021,
https://doi.org/10.18653/v1/2021.findings-emnlp.270
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from rwkd_lightning.errors import UserError
from rwkd_lightning.weighting.base import Step
from rwkd_lightning.weighting.meta_learned import MetaLearned


class RWKD(MetaLearned):
    """w_i = softmax(g_φ(x_i)) over the K terms, x_i detached features of the sample.

    The last layer starts at zero, so training starts at uniform weights.

    Args:
        features: module with ``width`` and ``forward(step) -> (B, width)``.
        terms: names of the K loss terms.
        hidden: units of the network's hidden layer.
        lr: Adam's rate for φ.
        entropy: τ of ``MetaLearned``; 0 is the plain form.

    Raises:
        UserError: if hidden, lr or entropy is out of range.
    """

    def __init__(self, features: nn.Module, terms: Sequence[str] = ("ce", "kd"), hidden: int = 32, lr: float = 3e-3,
                 entropy: float = 0.5) -> None:
        super().__init__(lr, entropy)
        if hidden < 1:
            raise UserError(f"weighting.hidden is {hidden}; the meta-network needs at least one hidden unit")
        self.features = features
        self.network = nn.Sequential(nn.Linear(features.width, hidden), nn.Tanh(), nn.Linear(hidden, len(terms)))
        nn.init.zeros_(self.network[2].weight)
        nn.init.zeros_(self.network[2].bias)

    def forward(self, step: Step) -> Tensor:
        weights: Tensor = self.network(self.features(step)).softmax(1)
        return weights

    def __repr__(self) -> str:
        return f"rwkd(lr={self.lr:g}, entropy={self.entropy:g})"
