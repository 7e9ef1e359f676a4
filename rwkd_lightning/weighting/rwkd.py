"""RW-KD: a network, trained along with the student by the bi-level step, weights the terms of each sample (form A).

Lu et al., RW-KD: Sample-wise Loss Terms Re-Weighting for Knowledge Distillation, Findings of EMNLP 2021,
https://doi.org/10.18653/v1/2021.findings-emnlp.270
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rwkd_lightning.terms.base import at_least_float32
from rwkd_lightning.utils.constants import constant
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting.base import History, Step
from rwkd_lightning.weighting.features.checked import Features, read, width_of
from rwkd_lightning.weighting.gates import Gate, Softmax
from rwkd_lightning.weighting.meta_learned import MetaLearned, in_full_precision, unit_influence
from rwkd_lightning.weighting.network import TanhNetwork


class RWKD(MetaLearned):
    """w_i = softmax(g_φ(x_i) + e·ū_i) over the K terms; another gate in place of softmax; smoothed over a sample's
    visits.

    x_i are detached features of the sample, and ū_ik is the mean over the visits of this sample so far of its
    normalised influence: the evidence itself, which the network only refines. The evidence is ours; the plain form of
    the paper is ``evidence=0, entropy=0``. The network's last layer starts at zero. Logits of a gate beyond the K terms
    get no evidence.

    With smoothing s, w_i = (1 − s)·gate + s·(the weights that the student used at the sample's last visit), so φ's
    gradient is 1 − s of what it was. That holds for samples that have had a meta step; a sample's weights from before
    its first one are those of the network's start, and no opinion. The entropy is that of the smoothed weights, which
    leaves its optimum where it was.

    Args:
        features: module with ``width`` and ``forward(step) -> (B, width)``.
        terms: names of the K loss terms.
        hidden: units of the network's hidden layer.
        lr: Adam's rate for φ.
        entropy: τ of ``MetaLearned``; 0 is the plain form.
        evidence: e ≥ 0, weight of a sample's own influence; 0 is the plain form.
        gate: from logits to weights; None: ``gates.Softmax``.
        smoothing: s in [0, 1); 0: none.

    Raises:
        UserError: if hidden, lr, entropy, evidence or smoothing is out of range, or the features have no width; by
            ``forward``, if the features give something else than they should.
    """

    def __init__(
        self,
        features: Features,
        terms: Sequence[str] = ("ce", "kd"),
        hidden: int = 32,
        lr: float = 3e-3,
        entropy: float = 1.0,
        evidence: float = 0.5,
        gate: Gate | None = None,
        smoothing: float = 0.0,
    ) -> None:
        super().__init__(lr, entropy)
        if hidden < 1:
            raise UserError(f"`hidden` is {hidden}; the meta-network needs at least one hidden unit")
        if not evidence >= 0:
            raise UserError(f"`evidence` is {evidence}; it must be 0 (the plain form) or above")
        if not 0 <= smoothing < 1:
            raise UserError(f"`smoothing` is {smoothing}; give a number from 0 (none) up to, but not including, 1")
        self.evidence = evidence
        self.reads_influence = evidence > 0
        self.smoothing = smoothing
        self.features = features
        self.gate = Softmax() if gate is None else gate
        last = nn.Linear(hidden, self.gate.width(len(terms)))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.network = TanhNetwork(nn.Linear(width_of(features), hidden), nn.Tanh(), last)

    def forward(self, step: Step) -> Tensor:
        dtype = next(self.network.parameters()).dtype
        features = step.once("features", self, lambda: read(self.features, step).to(dtype))
        logits = in_full_precision(self.network, features)
        if self.evidence:
            total, count = step.once("evidence", self, lambda: summed_influence(step))
            beyond = logits.shape[1] - total.shape[1]
            total = F.pad(total, (0, beyond)) if beyond else total
            logits = torch.addcdiv(logits, total, count, value=self.evidence)
        weights = self.gate.without_invalid(self.gate(at_least_float32(logits)), step.valid)
        return smoothed(weights, step.history, self.smoothing) if self.smoothing else weights

    def entropy_slope(self, weights: Tensor) -> Tensor:
        return self.gate.entropy_slope(weights)

    def __repr__(self) -> str:
        return (
            f"rwkd(lr={self.lr:g}, entropy={self.entropy:g}, evidence={self.evidence:g}, gate={self.gate!r}, "
            f"smoothing={self.smoothing:g})"
        )


def smoothed(weights: Tensor, history: History | None, share: float) -> Tensor:
    """(1 − share)·weights + share·(those of the last visit), ``(B, K)``; as they are for samples without an earlier
    meta step.
    """
    if history is None:
        return weights
    mixed = (1 - share) * weights + share * history.weights.to(weights.dtype)
    return torch.where(history.count > 0, mixed, weights)


def summed_influence(step: Step) -> tuple[Tensor, Tensor]:
    """Sum of the normalised influence over all visits of these samples, this one too, ``(B, K)``, and what to divide it
    by for the mean, ``(B, 1)`` or a scalar; 0 before any.
    """
    history, dtype = step.history, step.losses.dtype
    one = constant(1.0, dtype, step.losses.device)
    if step.influence is None:
        if history is None:
            return torch.zeros_like(step.losses), one
        return history.total.to(dtype), history.count.clamp_min(1).to(dtype)
    now = unit_influence(step)
    if history is None:
        return now.to(dtype), one
    return (history.total + now).to(dtype), (history.count + 1).to(dtype)
