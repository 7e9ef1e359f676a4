"""Squared distance from the teacher's logits."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from rwkd_lightning.terms.base import Term


class LogitMSE(Term):
    """(1/C)·Σ_c (s_ic − t_ic)² ``(B,)`` from ``logits`` and ``teacher_logits``, both ``(B, C)``; C = 1 for a
    regression.

    For classes, the limit of KD at high temperature, without its shift of the logits.

    Kim et al., Comparing Kullback-Leibler Divergence and Mean Squared Error Loss in Knowledge Distillation, IJCAI 2021,
    https://arxiv.org/abs/2105.08919; there without 1/C, with which one weight means the same for 2 and for 20 classes.
    Arguments as of ``Term``.
    """

    name = "logit_mse"
    role = "teacher"
    preference: int | None = 2

    def forward(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        squares = (self.prediction(outputs, batch) - self.target(batch)) ** 2
        return self.per_sample(squares.mean(-1), self.positions(batch))
