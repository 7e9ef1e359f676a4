"""Stops a training step at the first number that is not finite, on all ranks at once."""

from __future__ import annotations

import torch
from torch import Tensor

from rwkd_lightning.meta import MetaStep
from rwkd_lightning.training.ledger import Visit
from rwkd_lightning.utils.distributed import gather_rows
from rwkd_lightning.utils.errors import NotFinite
from rwkd_lightning.weighting import Step

NAMED = 10  # samples


class Watch:
    """Gathers what the ranks found out about their rows, and checks it before φ, the ledger or the student takes it in.

    Every check decides on numbers that are the same on all ranks, so that none of them is left waiting for the others.

    Args:
        step: this rank's B rows.
        meta: the meta step whose influence it has.
        done: student steps before this one.
        epoch: counted from 0.

    Attributes:
        visit: losses and influence of all ranks.

    Raises:
        NotFinite: for a loss or an influence that is not finite, naming the samples (their ``idx`` where the batch has
            it, else their ``index``) and the terms; for a meta loss; and by the methods.
    """

    def __init__(self, step: Step, meta: MetaStep | None, done: int, epoch: int) -> None:
        self.done, self.epoch, self.terms, self.batch, self.losses = (
            done,
            epoch,
            step.terms,
            step.batch,
            step.losses.detach(),
        )
        self.weights = torch.full_like(self.losses, float("nan"))
        self.visit = Visit.of(step)
        self.rows("loss", self.visit.losses, "lower `optimizer.lr` or look at these rows")
        influence = self.visit.influence
        if influence is None:
            return
        if meta is not None and meta.held_out_loss is not None and not bool(influence.isfinite().any()):
            self.number(
                "meta loss", meta.held_out_loss, "lower `optimizer.lr` or `lookahead_lr`, or look at the held-out rows"
            )
        self.rows("influence", influence, "lower `optimizer.lr` or `lookahead_lr`, or look at these rows")

    def weights_of_all(self, weights: Tensor) -> Tensor:
        """This rank's weights ``(B, K)`` to those of all ranks, ``(world·B, K)``."""
        self.weights = weights
        gathered = gather_rows(weights)
        self.rows("weight", gathered, "lower `weighting.lr`")
        return gathered

    def rows(self, what: str, values: Tensor, remedy: str) -> None:
        """Check numbers ``(world·B, K)`` of the rows of all ranks."""
        bad = torch.logical_not(values.isfinite())
        if not bool(bad.any()):
            return
        samples = gather_rows(self.batch.get("idx", self.batch["index"]))[bad.any(1)].tolist()
        terms = [repr(name) for name, here in zip(self.terms, bad.any(0).tolist(), strict=True) if here]
        more = f" and {len(samples) - NAMED} more" if len(samples) > NAMED else ""
        found = (
            f"the {what} of {' and '.join(terms)} is {float(values[bad][0])} for the samples {samples[:NAMED]}{more}"
        )
        self.stop(what, found, remedy)

    def number(self, what: str, value: Tensor, remedy: str) -> None:
        """Check a scalar that is the same on all ranks."""
        if not bool(value.isfinite()):
            found = f"the {what} is {float(value)}, of a batch of {len(self.losses)} rows whose losses are finite"
            self.stop(what, found, remedy)

    def stop(self, what: str, found: str, remedy: str) -> None:
        """Raise NotFinite."""
        batch = {name: value.detach().cpu() for name, value in self.batch.items() if isinstance(value, Tensor)}
        raise NotFinite(
            f"step {self.done}: {found}; {remedy}",
            self.done,
            self.epoch,
            what,
            batch,
            self.losses.cpu(),
            self.weights.detach().cpu(),
        )
