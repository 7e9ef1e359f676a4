"""AMAL: every sample's weights are free parameters, moved by the bi-level gradient (Sivasubramanian et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from rwkd_lightning.utils.distributed import gather_together
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting.base import Step, Weighting, masked
from rwkd_lightning.weighting.columns import Columns
from rwkd_lightning.weighting.kd import FixedAlpha
from rwkd_lightning.weighting.meta_learned import unit_influence


class AdaptiveMixing(Weighting):
    """λ_i ← clip(λ_i + lr·û_i, 0, most) at each meta step that sees sample i, and w_i = λ_i.

    û is the influence u in units of its mean size; −∂L_meta/∂λ_ik is u_ik up to a factor that all weights of a step
    share. λ begins at the fixed weights of ``kd``, those that a sample with invalid terms has there. A term without a
    value weighs 0 and does not move. There are no features and no network: what is learned of a sample is of no use to
    another one.

    Sivasubramanian, Maheshwari, Shenoy, Prathosh and Ramakrishnan, Adaptive Mixing of Auxiliary Losses in Supervised
    Learning, AAAI 2023, https://arxiv.org/abs/2202.03250. The abstract has the bi-level criterion and the weights of
    each sample; the rule is that of the authors' code (github.com/durgas16/AMAL, ``KD/LearnMultiLambdaMeta.py``): one
    step of the last layer at the present λ, the gradient of the held-out cross-entropy by λ, five steps of descent of
    rate 1500 on it, clipped to [1e-7, 2 − 1e-7], at every tenth epoch from the eleventh on. Ours are the unit of the
    rate, one step in place of five, and a meta step at any time that ``meta.start`` and ``meta.every`` say.

    Kept are N·K numbers.

    Args:
        terms: names of the K loss terms.
        lr: how far a mean influence moves a weight, > 0.
        most: the largest weight, > 0.
        alpha: the first weight of the teacher, in [0, 1].
        beta: the first weight of the terms beyond label and teacher, ≥ 0.

    Raises:
        UserError: if lr or most is out of range, or a first weight is, or is above ``most``; by ``check``, as
            ``FixedAlpha`` does; by ``forward`` before ``prepare``.
    """

    needs_influence = True
    collapse_remedy = "lower `weighting.lr`"
    moved: Tensor

    def __init__(
        self,
        terms: Sequence[str] = ("ce", "kd"),
        lr: float = 0.1,
        most: float = 2.0,
        alpha: float = 0.5,
        beta: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 < lr < float("inf"):
            raise UserError(f"`lr` is {lr}; it must be above 0 (0.1 is usual)")
        if not 0 < most < float("inf"):
            raise UserError(f"`most` is {most}; the largest weight must be above 0 (2 is usual)")
        self.first = FixedAlpha(alpha, beta)
        if max(alpha, 1 - alpha, beta if len(terms) > 2 else 0.0) > most:
            raise UserError(f"`most` is {most}, below the first weights alpha={alpha} and beta={beta}; raise `most`")
        self.lr, self.most = lr, most
        self.register_buffer("moved", torch.zeros(0, len(terms)))  # λ less its first value
        self.register_load_state_dict_pre_hook(self.as_long_as_saved)  # type: ignore[no-untyped-call]

    def check(self, terms: Columns) -> None:
        self.first.check(terms)

    def prepare(self, training_set: Mapping[str, Tensor]) -> None:
        rows = len(next(iter(training_set.values())))
        if len(self.moved) != rows:  # else it is that of a checkpoint, or of an earlier fit
            self.moved = self.moved.new_zeros(rows, self.moved.shape[1])

    @staticmethod
    def as_long_as_saved(method: nn.Module, state: Mapping[str, Tensor], prefix: str, *_: object) -> None:
        """Make room for a checkpoint before it is loaded, where the training set was not seen."""
        if isinstance(method, AdaptiveMixing) and not len(method.moved) and f"{prefix}moved" in state:
            method.moved = method.moved.new_zeros(state[f"{prefix}moved"].shape)

    def forward(self, step: Step) -> Tensor:
        return self.weights(step)[1]

    def weights(self, step: Step) -> tuple[Tensor, Tensor]:
        """The first weights ``(B, K)``, and the present ones, this step's influence included; the same for a step,
        however often it asks.
        """
        found: tuple[Tensor, Tensor] = step.once("weights", self, lambda: self.found(step))
        return found

    def found(self, step: Step) -> tuple[Tensor, Tensor]:
        """``weights``, computed."""
        if not len(self.moved):
            raise UserError("amal has not seen the training set; call its prepare(...) before training")
        first = masked(self.first(step), step.valid).to(self.moved.dtype)
        present = first + self.moved[step.batch["index"]]
        if step.influence is not None:
            present = present + self.lr * unit_influence(step).to(present.dtype)
        return first, present.clamp(0, self.most) * step.valid

    @torch.no_grad()
    def observe(self, step: Step) -> None:
        if step.influence is None:
            return
        first, present = self.weights(step)
        # every process keeps the rows of all: a sample's next visit may be to another one
        index, moved = gather_together(step.batch["index"], (present - first) * step.valid)
        self.moved[index] = moved

    def __repr__(self) -> str:
        return f"amal(lr={self.lr:g}, most={self.most:g}, alpha={self.first.alpha:g})"
