"""The loss terms of one modality alone (Jin et al., MSD, Findings of EMNLP 2021, abstract): student and teacher on the
same masked input. The form of the loss is not known; both usual ones are here.
"""

from __future__ import annotations

from rwkd_lightning.terms import BernoulliKL, DistillationKL, LogitMSE


class ModalityKL(DistillationKL):
    """T²·KL(q_m ‖ p_m) of a modality's logits; no value for a row without it."""

    name = "kd_text"
    output = "logits_text"
    role = "regulariser"
    preference: int | None = None


class ModalityBernoulliKL(BernoulliKL):
    """As `ModalityKL`, of several labels per row: the sum over labels."""

    name = "bernoulli_kd_text"
    output = "logits_text"
    role = "regulariser"
    preference: int | None = None


class ModalityMSE(LogitMSE):
    """Mean over classes of the squared difference of a modality's logits; no value for a row without it."""

    name = "mse_text"
    output = "logits_text"
    role = "regulariser"
    preference: int | None = None
