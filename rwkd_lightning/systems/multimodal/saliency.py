"""Weights of the modalities by how much each of them tells (Jin et al., MSD, Findings of EMNLP 2021, abstract).

The abstract defines saliency scores at the level of the population and of the instance; their form is not known here,
and the three below are usual ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from rwkd_lightning.systems.multimodal.fusion import IMAGE, SUFFIX, TEXT
from rwkd_lightning.terms.base import at_least_float32
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting.base import Step, Weighting
from rwkd_lightning.weighting.columns import Columns, columns

LEVELS = ("instance", "population")
SCORES = ("divergence", "loss", "entropy")


class Saliency(Weighting):
    """1 − α on the label term, α on the teacher's, and on the term of each modality m β·2·S_im/Σ_m' S_im'.

    S_im is of what the teacher says of the modality alone, q_im, beside what it says of both, q_i:
    ``divergence``: exp(−KL(q_i ‖ q_im)/τ); ``loss``: q_im[y_i]; ``entropy``: 1 − H(q_im)/log C. Of several labels per
    row each is the mean over labels, of yes and no each. At the level of the population S_m is the mean over the
    training rows that have both modalities. A row that lacks a modality has no weight on its term.

    Args:
        level: ``instance`` or ``population``.
        by: the score.
        alpha: share of the teacher, as of ``FixedAlpha``.
        beta: mean weight of a modality's term, ≥ 0.
        tau: τ > 0 of the divergence.
        normalise: whether the weights of a row's modalities sum to 2β; False: each is β·S_im, and both may be near 0.

    Raises:
        UserError: for an argument out of range; by ``check``, without the teacher's term or one of a modality; by
            ``prepare``, without the teacher's answers to the modalities.
    """

    needs_batch = False
    shares: Tensor

    def __init__(
        self,
        level: str = "instance",
        by: str = "divergence",
        alpha: float = 0.5,
        beta: float = 1.0,
        tau: float = 1.0,
        normalise: bool = True,
    ) -> None:
        super().__init__()
        for name, value, known in (("level", level, LEVELS), ("by", by, SCORES)):
            if value not in known:
                raise UserError(f"`{name}` is {value!r}; known are {', '.join(known)}")
        if not 0 <= alpha <= 1:
            raise UserError(f"`alpha` is {alpha}; the share of the teacher must lie in [0, 1]")
        if not 0 <= beta < float("inf"):
            raise UserError(f"`beta` is {beta}; the weight of the modalities' terms must be 0 or above")
        if not 0 < tau < float("inf"):
            raise UserError(f"`tau` is {tau}; it must be above 0")
        self.level, self.by, self.alpha, self.beta, self.tau, self.normalise = level, by, alpha, beta, tau, normalise
        self.register_buffer("shares", torch.ones(2))  # of the population: of text and picture

    def check(self, terms: Columns) -> None:
        columns(terms, "teacher")
        if not any(name.endswith((SUFFIX[TEXT], SUFFIX[IMAGE])) for name in terms):
            raise UserError(
                f"terms={list(terms)}: saliency weighs the terms of text and picture, and there is none; use "
                "terms=[ce,kd,kd_text,kd_image], or `FixedAlpha()`"
            )

    @torch.no_grad()
    def prepare(self, training_set: Mapping[str, Tensor]) -> None:
        missing = [name for kind in (TEXT, IMAGE) if (name := f"teacher_logits{SUFFIX[kind]}") not in training_set]
        if missing:
            raise UserError(f"saliency reads {missing[0]} of the training rows, which is not there; use `FixedAlpha()`")
        both = training_set["has_text"] & training_set["has_image"]
        if self.level == "population":
            if not bool(both.any()):
                raise UserError("saliency: no training row has text and picture; use `FixedAlpha()`")
            self.shares.copy_(self.scores(training_set)[both].mean(0))

    def scores(self, rows: Mapping[str, Tensor]) -> Tensor:
        """S ``(B, 2)`` of text and picture."""
        several = rows["labels"].ndim > 1
        whole = answers(rows["teacher_logits"], several)
        alone = [answers(rows[f"teacher_logits{SUFFIX[kind]}"], several) for kind in (TEXT, IMAGE)]
        labels = rows["labels"].to(whole.device)
        return torch.stack([self.score(whole, one, labels if several else labels[:, None]) for one in alone], 1)

    def score(self, whole: Tensor, alone: Tensor, labels: Tensor) -> Tensor:
        """S ``(B,)`` from log-probabilities ``(B, n, c)`` of n questions with c answers each, and labels ``(B, n)``."""
        p = alone.exp()
        if self.by == "entropy":
            entropies: Tensor = torch.special.entr(p)
            return 1 - entropies.sum(2).mean(1) / math.log(p.shape[2])
        if self.by == "divergence":
            return torch.exp(-(whole.exp() * (whole - alone)).sum(2).mean(1) / self.tau)
        return p.gather(2, labels.long().clamp_min(0)[..., None])[..., 0].mean(1)

    def forward(self, step: Step) -> Tensor:
        of_rows = self.scores(step.batch) if self.level == "instance" else self.shares.expand(len(step.losses), -1)
        there = torch.stack([step.batch[f"has_{kind}"] for kind in (TEXT, IMAGE)], 1)
        of_rows = torch.where(there, of_rows, 0.0).to(step.losses.dtype)
        if self.normalise:  # to β for each modality that the row has
            of_rows = of_rows * there.sum(1, keepdim=True) / of_rows.sum(1, keepdim=True).clamp_min(1e-12)
        weights = fixed(step, self.alpha)
        for place, kind in enumerate((TEXT, IMAGE)):
            weights = weights + self.beta * of_rows[:, place, None] * step.marked(columns_of(step, kind))
        return weights

    def __repr__(self) -> str:
        return f"saliency({self.level}, {self.by}, beta={self.beta:g})"


def answers(logits: Tensor, several: bool) -> Tensor:
    """Log-probabilities ``(B, n, c)`` of logits ``(B, C)``: one question with C answers, or C of no and yes."""
    logits = at_least_float32(logits)
    if several:
        return torch.stack([F.logsigmoid(-logits), F.logsigmoid(logits)], 2)
    return logits.log_softmax(1)[:, None]


def columns_of(step: Step, kind: str) -> list[int]:
    """The terms of a modality."""
    return [k for k, name in enumerate(step.terms) if str(name).endswith(SUFFIX[kind])]


def fixed(step: Step, alpha: float, beta: float = 0.0) -> Tensor:
    """``(K,)``: 1 − α on the label term and α on the teacher's, as of ``FixedAlpha``; β on those of a modality."""
    labels, teacher = (step.columns(role) if step.has(role) else [] for role in ("label", "teacher"))
    of_teacher = alpha if labels else 1.0
    weights = [1 - alpha if k in labels else of_teacher if k in teacher else beta for k in range(len(step.terms))]
    return step.vector(weights)


class ModalityOracle(Weighting):
    """As a fixed α and β, but 0 on the term of a modality whose text or picture is another row's, and on a label or a
    teacher that is corrupted. For data corrupted on purpose only.

    Args:
        alpha, beta: as of `FixedAlpha`.
    """

    needs_batch = False

    def __init__(self, alpha: float = 0.5, beta: float = 1.0) -> None:
        super().__init__()
        self.alpha, self.beta = alpha, beta

    def forward(self, step: Step) -> Tensor:
        labels = step.marked(step.columns("label") if step.has("label") else [])
        wrong = torch.where(labels > 0, flag(step, "label_flipped"), flag(step, "teacher_corrupted"))
        for kind in (TEXT, IMAGE):
            wrong = wrong | (flag(step, f"{kind}_swapped") & (step.marked(columns_of(step, kind)) > 0))
        return torch.where(wrong, 0.0, fixed(step, self.alpha, self.beta))

    def __repr__(self) -> str:
        return "modality_oracle"


def flag(step: Step, name: str) -> Tensor:
    """A flag of the rows ``(B, 1)``."""
    return step.batch[name][:, None]
