"""Stops the training at the first number that is not finite, on all ranks at once.

On a CPU every check is made where its numbers come up. A device would be waited for each time, so there the numbers are
summed up, times 0, into one that is NaN from the first bad one on: the optimizers and the record leave everything as it
is from that step on, and the host, which reads the sum of a step ``LAG`` steps later, makes that step's checks again,
one by one, for the message.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from rwkd_lightning.meta import MetaStep
from rwkd_lightning.training.ledger import Visit
from rwkd_lightning.utils.distributed import gather_rows
from rwkd_lightning.utils.errors import NotFinite
from rwkd_lightning.weighting import Step, Weighting

NAMED = 10  # samples
LAG = 2  # steps: the device has long finished, and waits for nothing
AT_ONCE = ("cpu",)
"""Devices whose numbers are there when the host asks."""


class Watch:
    """Gathers what the ranks found out about their rows, and checks it before φ, the ledger or the student takes it in.

    Every check decides on numbers that are the same on all ranks, so that none of them is left waiting for the others.

    Args:
        step: this rank's B rows.
        meta: the meta step whose influence it has.
        done: student steps before this one.
        epoch: counted from 0.
        guard: keeps the checks for later; None: they are made at once.

    Attributes:
        visit: losses and influence of all ranks.

    Raises:
        NotFinite: for a loss or an influence that is not finite, naming the samples (their ``idx`` where the batch has
            it, else their ``index``) and the terms; for a meta loss; and by the methods.
    """

    def __init__(self, step: Step, meta: MetaStep | None, done: int, epoch: int, guard: Guard | None = None) -> None:
        self.guard, self.later, self.taken_in = guard, step.later, 0
        self.fresh: list[Tensor] = []
        self.checks: list[Callable[[], None]] = []
        self.done, self.epoch, self.terms, self.batch, self.losses = (
            done,
            epoch,
            step.terms,
            step.batch,
            step.values,
        )
        self.weights = torch.full_like(self.losses, float("nan"))
        self.visit = Visit.of(step)
        self.rows("loss", self.visit.losses, "lower `optimizer.lr` or look at these rows")
        influence = self.visit.influence
        if influence is None:
            return
        if meta is not None and meta.held_out_loss is not None:
            held_out_loss = meta.held_out_loss
            self.make(lambda: self.check_held_out(influence, held_out_loss))
        self.rows("influence", influence, "lower `optimizer.lr` or `lookahead_lr`, or look at these rows")

    def make(self, check: Callable[[], None], *numbers: Tensor) -> None:
        """Make a check at once, or keep it for later with the numbers that it is about."""
        if self.guard is None:
            check()
            return
        self.checks.append(check)
        self.fresh.extend(numbers)

    def found(self) -> Tensor | None:
        """1 on the device, as float32, where anything up to here was not finite, at this step or before; else 0. None
        where checks are made at once.
        """
        if self.guard is None:
            return None
        if self.later is not None:  # what the method has added since
            self.fresh.extend(self.later.finite[self.taken_in :])
            self.taken_in = len(self.later.finite)
        self.guard.take(self.fresh)
        self.fresh = []
        return self.guard.bad

    def again(self) -> None:
        """Make the checks that were kept; raises what they raise."""
        for check in (*self.checks, *(self.later.checks if self.later is not None else ())):
            check()

    def check_held_out(self, influence: Tensor, loss: Tensor) -> None:
        """The meta loss, where no influence is a number."""
        if not bool(influence.isfinite().any()):
            self.check_number("meta loss", loss, "lower `optimizer.lr` or `lookahead_lr`, or look at the held-out rows")

    def weights_of_all(self, weights: Tensor) -> Tensor:
        """This rank's weights ``(B, K)`` to those of all ranks, ``(world·B, K)``."""
        gathered = gather_rows(weights)

        def check() -> None:
            self.weights = weights
            self.check_rows("weight", gathered, "lower `weighting.lr`")

        self.make(check, gathered)
        return gathered

    def rows(self, what: str, values: Tensor, remedy: str) -> None:
        """Check numbers ``(world·B, K)`` of the rows of all ranks."""
        self.make(lambda: self.check_rows(what, values, remedy), values)

    def number(self, what: str, value: Tensor, remedy: str) -> None:
        """Check a scalar that is the same on all ranks."""
        self.make(lambda: self.check_number(what, value, remedy), value)

    def gradient(self, what: str, parts: Sequence[Tensor], remedy: str) -> None:
        """Check a gradient of several tensors that is the same on all ranks, by its largest entry."""

        def check() -> None:
            self.check_number(what, nn.utils.get_total_norm(parts, norm_type=math.inf), remedy)

        self.make(check, *parts)

    def check_rows(self, what: str, values: Tensor, remedy: str) -> None:
        """As ``rows``, at once."""
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

    def check_number(self, what: str, value: Tensor, remedy: str) -> None:
        """As ``number``, at once."""
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


class Guard:
    """What was found on the device, over all steps, and the steps whose findings the host has not read.

    Attributes:
        bad: see ``Watch.found``; a scalar.
    """

    @classmethod
    def of(cls, device: torch.device, trainer: lightning.Trainer) -> Guard | None:
        """None where checks are made at once.

        That is on a CPU, and where an optimizer cannot leave out a step (see ``unless``), or is told by a gradient
        scaler.
        """
        fused = all(optimizer.defaults.get("fused") for optimizer in trainer.optimizers)
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        return None if device.type in AT_ONCE or scaled or not fused else cls(device)

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.sum = torch.zeros((), device=device)
        self.bad = torch.zeros((), device=device)
        self.pending: deque[tuple[Watch, Tensor, torch.cuda.Event | None, Callable[[NDArray[Any]], None]]] = deque()

    @torch.no_grad()
    def take(self, numbers: Sequence[Tensor]) -> None:
        """Add numbers of any shape to the sum."""
        if numbers:
            largest = nn.utils.get_total_norm(numbers, norm_type=math.inf)
            self.sum.add_(largest, alpha=0)
            torch.ne(self.sum, self.sum, out=self.bad)

    def end(self, watch: Watch, heard: Sequence[Tensor], tell: Callable[..., None]) -> None:
        """A step is over; ``tell`` gets what is ``heard`` of it, as float32 arrays, when that is read, if nothing bad
        was found.
        """
        watch.found()
        sent = torch.cat([x.flatten() for x in (self.bad, *heard)])
        shapes = [x.shape for x in heard]
        event = None
        if self.device.type == "cuda":
            host = torch.empty(sent.shape, dtype=sent.dtype, pin_memory=True)
            host.copy_(sent, non_blocking=True)
            event, sent = torch.cuda.Event(), host  # type: ignore[no-untyped-call]
            event.record()
        self.pending.append((watch, sent, event, lambda found: tell(*apart(found, shapes))))
        self.read(LAG)

    def read(self, left: int = 0) -> None:
        """Read the steps before the last ``left`` ones; raises what their checks raise."""
        while len(self.pending) > left:
            watch, sent, event, tell = self.pending.popleft()
            if event is not None:
                event.synchronize()
            found = sent.numpy()
            if found[0]:
                watch.again()
                raise RuntimeError(f"step {watch.done}: a number that is not finite was found, and not found again")
            tell(found[1:])


def apart(numbers: NDArray[Any], shapes: Sequence[torch.Size]) -> list[NDArray[Any]]:
    """Numbers ``(F,)`` that were laid one after the other, in their shapes."""
    ends = np.cumsum([shape.numel() for shape in shapes])[:-1]
    return [part.reshape(shape) for part, shape in zip(np.split(numbers, ends), shapes, strict=True)] if shapes else []


def unless(found: Tensor | None, optimizer: Optimizer) -> None:
    """Let the next step of a fused optimizer be left out where the scalar is 1, without asking the device."""
    if found is not None:
        optimizer.found_inf = found  # type: ignore[attr-defined]


@contextmanager
def undone_where(bad: Tensor | None, method: Weighting) -> Iterator[None]:
    """Let the buffers of a method be as before where the scalar is not 0; None: they are not touched."""
    if bad is None or type(method).observe is Weighting.observe:
        yield
        return
    saved, undone = method.state_dict().keys(), bad > 0  # what is not saved is constant
    before = {name: buffer.clone() for name, buffer in method.named_buffers() if name in saved}
    yield
    for name, buffer in method.named_buffers():
        if name in saved:
            buffer.copy_(torch.where(undone, before[name], buffer))
