"""The protocol of features, and the check of the output of your own."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting.base import Step


class Features(Protocol):
    """The inputs of the network for a sample."""

    width: int

    def __call__(self, step: Step) -> Tensor:
        """``(B, width)``, detached."""


def width_of(features: Any) -> int:
    """The number of columns that features give.

    Raises:
        UserError: if they do not say so.
    """
    width = getattr(features, "width", None)
    if isinstance(width, bool) or not isinstance(width, int) or width < 1:
        raise UserError(
            f"`features`: {name(features)} has width={width!r}; it must be the number of columns that its "
            "forward(step) gives, 1 or more"
        )
    return width


def read(features: Any, step: Step) -> Tensor:
    """``features(step)``, ``(B, width)``.

    Raises:
        UserError: if that is of another shape, has a gradient, or is not finite in a row whose losses are.
    """
    values, expected = features(step), (len(step.losses), width_of(features))
    found = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
    if not isinstance(values, Tensor) or found != expected:
        raise UserError(
            f"`features`: {name(features)} gave {found}; forward(step) must give a tensor of shape {expected}, a "
            "row for each sample and its width in columns"
        )
    if values.requires_grad:
        raise UserError(
            f"`features`: {name(features)} gave values with a gradient, which would reach into what it reads; "
            "put @torch.no_grad() on its forward, or detach them"
        )
    if step.later is None:
        check_finite(features, values, step.losses)
    else:
        losses = step.values
        step.later.finite.append(values)
        step.later.checks.append(lambda: check_finite(features, values, losses))
    return values


def check_finite(features: Any, values: Tensor, losses: Tensor) -> None:
    """Raise UserError for values ``(B, width)`` that are not finite in a row whose losses ``(B, K)`` are."""
    # where the losses are not finite either it is the student, of which the training loop tells
    bad = (~values.isfinite().all(1) & losses.isfinite().all(1)).nonzero()
    if len(bad):
        row = int(bad[0])
        raise UserError(
            f"`features`: {name(features)} gave {values[row].tolist()} for row {row} of a batch, whose losses are "
            "finite; keep logarithms and quotients away from 0"
        )


def name(features: Any) -> str:
    """The class."""
    return type(features).__name__
