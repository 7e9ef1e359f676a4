"""Weights that come with the data, as a factor on another method's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting.base import Step, Weighting
from rwkd_lightning.weighting.wrapper import Wrapper


class GivenWeights(Wrapper):
    """w_ik = g_i·v_ik, g_i a column of the training data and v the weights of another method.

    The student's loss of sample i is g_i·Σ_k v_ik·l_ik, so the inner method's influence of v_ik is g_i·u_ik, and that
    is what it learns from. A sample of weight 0 teaches the student nothing.

    Args:
        inner: the method that shares a sample's weight among its terms.
        column: the batch's column of g, ``(B,)``.

    Raises:
        UserError: as ``Wrapper``; by ``prepare``, if the column is missing, holds a weight that is negative or not
            finite, or only zeros.
    """

    def __init__(self, inner: Weighting, column: str = "sample_weight") -> None:
        super().__init__(inner)
        self.column = column
        self.reads_columns = (column,)

    def prepare(self, training_set: Mapping[str, Tensor]) -> None:
        if self.column not in training_set:
            raise UserError(
                f"given needs a weight for each training row, and the training data has no column {self.column!r}; set "
                "`sample_weight`"
            )
        weights = training_set[self.column]
        wrong = torch.nonzero(~(weights >= 0) | weights.isinf())
        if len(wrong):
            row = int(wrong[0])
            raise UserError(
                f"{self.column!r} is {float(weights[row]):g} in training row {row} ({len(wrong)} such row(s)); give "
                "every row a finite weight of 0 or more"
            )
        if not bool(weights.any()):
            raise UserError(f"{self.column!r} is 0 in all training rows; give some row a weight above 0")
        self.inner.prepare(training_set)

    def forward(self, step: Step) -> Tensor:
        weights: Tensor = self.inner(self.scaled(step))
        return weights * self.given(step).to(weights.dtype)

    def own_loss(self, step: Step) -> Tensor | None:
        return self.inner.own_loss(self.scaled(step))

    def observe(self, step: Step) -> None:
        self.inner.observe(self.scaled(step))

    def scaled(self, step: Step) -> Step:
        """The step with the influence of the inner method's weights."""
        influence = step.influence
        if influence is None:
            return step
        scaled: Step = step.once("scaled", self, lambda: self.scale(step, influence))
        return scaled

    def scale(self, step: Step, influence: Tensor) -> Step:
        """``scaled``, with an influence."""
        return replace(step, influence=influence * self.given(step).to(influence.dtype))

    def given(self, step: Step) -> Tensor:
        """g ``(B, 1)``."""
        return step.batch[self.column][:, None]

    def __repr__(self) -> str:
        return f"given({self.inner!r})"
