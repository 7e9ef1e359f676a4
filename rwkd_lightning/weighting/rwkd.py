"""RW-KD: a network, trained along with the student by the bi-level step, weights the terms of each sample (form A).

Lu et al., RW-KD: Sample-wise Loss Terms Re-Weighting for Knowledge Distillation, Findings of EMNLP 2021,
https://doi.org/10.18653/v1/2021.findings-emnlp.270
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from rwkd_lightning.bilevel import finite, normalised
from rwkd_lightning.errors import UserError
from rwkd_lightning.weighting.base import Step
from rwkd_lightning.weighting.meta_learned import MetaLearned


class Features(Protocol):
    """What the network reads of a sample."""

    width: int

    def __call__(self, step: Step) -> Tensor:
        """``(B, width)``, detached."""


class RWKD(MetaLearned):
    """w_i = softmax(g_φ(x_i) + e·ū_i) over the K terms.

    x_i are detached features of the sample, and ū_ik is the mean over the visits of this sample so far of its normalised
    influence: the evidence itself, which the network only refines. The evidence is ours; the plain form of the paper is
    ``evidence=0, entropy=0``. The network's last layer starts at zero.

    Args:
        features: module with ``width`` and ``forward(step) -> (B, width)``.
        terms: names of the K loss terms.
        hidden: units of the network's hidden layer.
        lr: Adam's rate for φ.
        entropy: τ of ``MetaLearned``; 0 is the plain form.
        evidence: e ≥ 0, weight of a sample's own influence; 0 is the plain form.

    Raises:
        UserError: if hidden, lr, entropy or evidence is out of range.
    """

    def __init__(self, features: Features, terms: Sequence[str] = ("ce", "kd"), hidden: int = 32, lr: float = 3e-3,
                 entropy: float = 1.0, evidence: float = 0.5) -> None:
        super().__init__(lr, entropy)
        if hidden < 1:
            raise UserError(f"weighting.hidden is {hidden}; the meta-network needs at least one hidden unit")
        if not evidence >= 0:
            raise UserError(f"weighting.evidence is {evidence}; it must be 0 (the plain form) or above")
        self.evidence = evidence
        self.features = features
        last = nn.Linear(hidden, len(terms))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.network = nn.Sequential(nn.Linear(features.width, hidden), nn.Tanh(), last)

    def forward(self, step: Step) -> Tensor:
        logits: Tensor = self.network(self.features(step))
        if self.evidence:
            logits = logits + self.evidence * mean_influence(step)
        return logits.softmax(1)

    def __repr__(self) -> str:
        return f"rwkd(lr={self.lr:g}, entropy={self.entropy:g}, evidence={self.evidence:g})"


def mean_influence(step: Step) -> Tensor:
    """Mean of the normalised influence over all visits of these samples, this one included, ``(B, K)``; 0 before any."""
    history = step.history
    if step.influence is None:
        return torch.zeros_like(step.losses) if history is None else history.influence.to(step.losses.dtype)
    now = normalised(finite(step.influence))
    if history is None:
        return now
    visits = history.visits[:, None]
    return ((history.influence * visits + now) / (visits + 1)).to(step.losses.dtype)
