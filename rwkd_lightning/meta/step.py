"""The meta step of a run: when it is due, on which held-out samples, by which engine and for which θ."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from rwkd_lightning.bilevel import Engine, Problem, RandomState
from rwkd_lightning.bilevel.engine import Outputs, Parameters
from rwkd_lightning.data.indexed import held_out
from rwkd_lightning.meta.restriction import Batch, MetaStream, Restriction
from rwkd_lightning.terms import Term
from rwkd_lightning.terms.base import of_each
from rwkd_lightning.utils.distributed import all_reduce_mean
from rwkd_lightning.utils.errors import UserError


class MetaStep(nn.Module):
    """Computes the influence of each loss term of each sample on the held-out loss.

    Args:
        engine: how the inner products are computed.
        theta: which part of the student they are taken over.
        loss_terms: the meta loss is the mean over samples of the sum of these terms.
        stream: held-out batches by meta step; or held-out rows, a DataLoader or a map-style dataset (``held_out``).
        lookahead_lr: SGD step a of the lookahead; None: no lookahead (v at θ).
        every: a meta step every so many student steps.
        start: share of the training before the first one; the weights are uniform until then. The meta-gradient of
            an untrained student reflects only the class prior.

    Raises:
        UserError: if lookahead_lr, every or start is out of range.
    """

    taken: Tensor

    def __init__(
        self,
        engine: Engine,
        theta: Restriction,
        loss_terms: Sequence[Term],
        stream: MetaStream | DataLoader[Any] | Dataset[Any],
        lookahead_lr: float | None = None,
        every: int = 1,
        start: float = 0.0,
    ) -> None:
        super().__init__()
        if lookahead_lr is not None and not lookahead_lr > 0:
            raise UserError(
                f"`lookahead_lr` is {lookahead_lr}; a lookahead needs a step above 0 (0.01 to 0.5); use "
                "`lookahead_lr=None` for none"
            )
        if every < 1:
            raise UserError(f"`every` is {every}; it counts student steps per meta step and must be at least 1")
        if not 0 <= start < 1:
            raise UserError(f"`start` is {start}; the share of the training without meta steps must lie in [0, 1)")
        self.start = start
        self.engine = engine
        self.theta = theta
        self.loss_terms = nn.ModuleList(loss_terms)
        self.stream: MetaStream = held_out(stream) if isinstance(stream, DataLoader | Dataset) else stream
        self.lookahead_lr = lookahead_lr
        self.every = every
        self.turn = 0
        """That of the held-out rows which the last meta step read, where it read one of two."""
        self.held_out_loss: Tensor | None = None
        """The meta loss of the last meta step, on this rank's held-out samples."""
        self.register_buffer("taken", torch.zeros((), dtype=torch.long))
        self.counted: int | None = 0
        self.register_load_state_dict_post_hook(MetaStep.recount)  # type: ignore[no-untyped-call]
        self.register_state_dict_pre_hook(MetaStep.note)  # type: ignore[no-untyped-call]

    @property
    def steps(self) -> int:
        """Meta steps taken so far, those before the checkpoint that was loaded too."""
        if self.counted is None:
            self.counted = int(self.taken)
        return self.counted

    @steps.setter
    def steps(self, count: int) -> None:
        self.counted = count

    def note(self, *_: object) -> None:
        """Write the number of steps into ``taken``, which is about to be saved."""
        self.taken.fill_(self.steps)

    def recount(self, *_: object) -> None:
        """Forget the number of steps: ``taken`` was loaded."""
        self.counted = None

    def build(self, student: nn.Module) -> None:
        """Make room for what is kept between steps, before training."""
        self.theta.check(student)
        self.theta.build(student, self.stream)

    def due(self, step: int, progress: float = 1.0) -> bool:
        """Whether student step ``step``, counted from 0, takes a meta step; ``progress`` in [0, 1] of the training."""
        return progress >= self.start and step % self.every == 0

    def influence(
        self,
        student: nn.Module,
        batch: Batch,
        outputs: Outputs | Callable[[], Outputs],
        terms: Callable[[Outputs], Tensor],
        weights: Tensor,
        randomness: RandomState,
        gradient: Parameters | None = None,
        slopes: Callable[[Collection[str]], Outputs | None] | None = None,
        by_halves: bool = False,
    ) -> Tensor:
        """u ``(B, K)`` for a training batch whose training pass gives ``outputs`` from the state ``randomness``.

        ``outputs`` may be a function that takes this pass: a meta step without a lookahead calls it when its own passes
        are over, if at all, so that their memory and that of the training graph are not needed at the same time.

        ``gradient`` is that of the training loss under ``weights``, by the names of the student's parameters, where it
        is known; only for a θ of such parameters (``Restriction.needs_pass``). ``slopes``: see ``Problem``.
        ``by_halves``: by the held-out rows of even and of odd ``index`` in turn, see ``turn``.
        """
        self.turn = self.steps % 2
        half = self.turn if by_halves else None
        influence = self.engine.influence(
            self.problem(student, batch, outputs, terms, weights, randomness, gradient, slopes, half)
        )
        self.steps += 1
        return influence

    def problem(
        self,
        student: nn.Module,
        batch: Batch,
        outputs: Outputs | Callable[[], Outputs],
        terms: Callable[[Outputs], Tensor],
        weights: Tensor,
        randomness: RandomState,
        gradient: Parameters | None = None,
        slopes: Callable[[Collection[str]], Outputs | None] | None = None,
        half: int | None = None,
    ) -> Problem:
        """This step's problem for the engine; as ``influence``."""
        training_pass = outputs if callable(outputs) else lambda: outputs
        view = self.theta.view(student, batch, training_pass, randomness, self.stream, self.steps)

        strange = set() if gradient is None else set(view.parameters) - {name for name, _ in student.named_parameters()}
        if strange:
            raise UserError(
                f"`theta={self.theta!r}` has parameters {sorted(strange)[:3]}, which the student does not have by "
                "these names, so its lookahead cannot take the student's gradient; use `updated_weights='new'`"
            )

        terms_of_loss = [term for term in self.loss_terms if isinstance(term, Term)]

        def meta_loss(parameters: Parameters) -> Tensor:
            meta_outputs, meta_batch = view.meta_outputs(parameters)
            first, *others = of_each(terms_of_loss, meta_outputs, meta_batch)
            rows = sum(others, first)
            loss = rows.mean()
            self.held_out_loss = loss.detach()
            return loss if half is None else mean_of_half(rows, meta_batch["index"], half)

        def known() -> Outputs:
            return {n: o for n, o in training_pass().items() if n != "features"}

        return Problem(
            view.parameters,
            view.outputs,
            terms,
            meta_loss,
            weights,
            self.lookahead_lr,
            known,
            gradient,
            view.derivative,
            slopes,
        )


def mean_of_half(rows: Tensor, index: Tensor, half: int) -> Tensor:
    """The mean of the rows ``(m,)`` whose ``index`` leaves this rest when halved; its mean over the ranks is that of
    all their rows, however many each of them has.
    """
    chosen = (index % 2 == half).to(rows.dtype)
    return (rows * chosen).sum() / all_reduce_mean(chosen.sum()).clamp_min(torch.finfo(rows.dtype).tiny)
