"""The exceptions for what the user can correct."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class UserError(ValueError):
    """A mistake in the input, in one line that names the bad value and the way out.

    The command line prints it without a traceback and exits with status 1. What a terminal would not print as it is, as
    a line break in a file's name, is shown as its escape, and of a very long message the middle is left out.
    """

    def __init__(self, message: str) -> None:
        line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
        super().__init__(line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}")


LONGEST = 2000


class NotFinite(UserError):
    """A training step met a number that is NaN or infinite, and stopped before it reached the student's parameters.

    Of several processes all raise it, at the same step, each with its own rows.

    Attributes:
        step: student steps done before this one.
        epoch: counted from 0.
        what: ``loss``, ``influence``, ``meta loss``, ``gradient of the weighting``, ``weight`` or ``gradient``.
        batch: this process's rows, on the CPU, with what the teacher said of them.
        losses: ``(B, K)``, on the CPU.
        weights: as the losses; NaN where the step stopped before it had any.
    """

    def __init__(
        self, message: str, step: int, epoch: int, what: str, batch: dict[str, Tensor], losses: Tensor, weights: Tensor
    ) -> None:
        super().__init__(message)
        self.step, self.epoch, self.what = step, epoch, what
        self.batch, self.losses, self.weights = batch, losses, weights


class Pruned(Exception):
    """A search has ended this training between two epochs.

    Attributes:
        score: the last one on the meta split.
    """

    def __init__(self, score: float, epoch: int) -> None:
        super().__init__(f"pruned after epoch {epoch}, with {score:.4f} on the meta split")
        self.score = score
