"""The LightningModule: student, frozen teacher and meta-learner in one manually optimised loop."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rwkd_lightning.meta import MetaStep
from rwkd_lightning.meta.standard import standard_meta
from rwkd_lightning.terms import Term, stack
from rwkd_lightning.terms.base import at_least_float32
from rwkd_lightning.training.batch_passes import OnePass, PassByPart, Passes, TwoPasses, goes_through, split
from rwkd_lightning.training.collapse_alarm import CollapseAlarm
from rwkd_lightning.training.compatibility import check_module, check_unmoved, shares_gradient
from rwkd_lightning.training.contract import check_batch, losses
from rwkd_lightning.training.finite_check import Watch, undone_where, unless
from rwkd_lightning.training.frozen_teacher import FrozenTeacher
from rwkd_lightning.training.hooks import Hooks
from rwkd_lightning.training.ledger import Ledger
from rwkd_lightning.training.optim import adamw
from rwkd_lightning.training.random_states import RandomStates
from rwkd_lightning.training.step_log import summary
from rwkd_lightning.training.steps import gradient_of_all_ranks
from rwkd_lightning.training.validation import Losses, Metric, Metrics, Validation
from rwkd_lightning.utils.constants import constant
from rwkd_lightning.utils.distributed import world_size
from rwkd_lightning.weighting import Step, Weighting, masked
from rwkd_lightning.weighting.base import Later
from rwkd_lightning.weighting.columns import Columns
from rwkd_lightning.weighting.meta_learned import unit_influence

log = logging.getLogger(__name__)
DEFAULT_OPTIMIZER = functools.partial(adamw, lr=1e-3)


class DistillationModule(Hooks):
    """Trains a student on mean_i Σ_k w_ik·l_ik, the weights w given by a weighting method.

    It knows no task: the student maps a batch to outputs by name, the terms map outputs and batch to one loss per
    sample.

    Args:
        student: batch -> outputs by name, one row per sample; `FromBatch` makes one of a network on tensors.
        terms: the K loss terms.
        weighting: gives each of them its weight.
        optimizer: module -> optimizer; the module is the student, with the terms beside it where they have parameters.
        train_size: N training samples; ``batch["index"]`` runs over them. None: the rows of the Trainer's training
            data, which ``weighting.prepare`` then reads too.
        schedule: (optimizer, total student steps) -> scheduler, stepped once per student step; None: constant rate.
        meta: the meta step, for methods that need one.
        teacher: batch -> outputs; asked where the batch does not carry as ``teacher_<name>`` what the terms read of it.
            Frozen, never in the checkpoint.
        updated_weights: ``"new"``: the student uses the weights of the φ just updated; ``"current"``: of the one
            before.
        clip: largest norm of the student's gradient; None: no clipping.
        accumulate: parts in which a batch goes through the student, for memory; the step is that of the whole batch.
        metrics: torchmetrics by name, of the outputs ``logits`` and ``labels`` on validation and test batches, logged
            as ``meta/<name>`` and ``test/<name>``; short for ``validation=Metrics(metrics)``. None: the loss terms.
        validation: scores the student in another way.
        meta_data: held-out rows for the meta step in place of ``meta``: a DataLoader or a map-style dataset
            (`standard_meta`).

    Raises:
        UserError: if the pieces do not fit each other.
    """

    def __init__(
        self,
        student: nn.Module,
        terms: Sequence[Term],
        weighting: Weighting,
        optimizer: Callable[[nn.Module], Optimizer] = DEFAULT_OPTIMIZER,
        train_size: int | None = None,
        schedule: Callable[[Optimizer, int], LRScheduler] | None = None,
        meta: MetaStep | None = None,
        teacher: nn.Module | None = None,
        updated_weights: str = "new",
        clip: float | None = 1.0,
        accumulate: int = 1,
        metrics: Mapping[str, Metric] | None = None,
        validation: Validation | None = None,
        meta_data: Any = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        if meta is None and meta_data is not None and weighting.needs_influence:
            meta = standard_meta(student, terms, meta_data)
        check_module(student, terms, weighting, meta, updated_weights, clip, accumulate)
        self.student = student
        self.terms = nn.ModuleList(terms)
        self.term_names = Columns.of(terms)
        self.weighting = weighting
        self.meta = meta
        if meta is not None:
            meta.build(student)
        self.train_size = train_size
        self.ledger = Ledger(train_size or 0, self.term_names)
        self.alarm = CollapseAlarm(self.term_names, weighting.collapse_remedy)
        self.make_optimizer, self.make_schedule = optimizer, schedule
        self.updated_weights, self.clip, self.accumulate = updated_weights, clip, accumulate
        if validation is None and metrics is None:
            validation = Losses(terms, lambda batch: self.frozen.answer(batch, self.reads))
        self.validation = validation if validation is not None else Metrics(metrics or {})
        self.random_states = RandomStates()
        self.frozen = FrozenTeacher(teacher)
        self.columns: Sequence[Tensor] = ()
        """The terms of the pass under way, ``(B,)`` each, where a sample's terms read no other sample's outputs."""

    # Training

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Forward, meta step, weigh, student step, record; `batch_passes` saves passes and memory behind it."""
        passes = self.forward_pass(batch)
        influence = self.meta_step(batch, passes)
        step = self.step_of(batch, *passes.forward(), influence)
        # all of it is finite, on all ranks
        watch = Watch(step, self.meta, self.global_step, self.current_epoch, self.guard)
        weights = self.weigh(step, passes, watch)
        used = watch.weights_of_all(weights)
        self.student_step(passes, weights, watch)
        self.record(step, watch, used)

    def forward_pass(self, batch: dict[str, Tensor]) -> Passes:
        """The batch's way through the student, with as few passes and as little memory as the method allows."""
        check_batch(batch, len(self.ledger.table))
        batch["progress"] = torch.full((), self.progress, device=self.device)  # for terms that change with the training
        parts = split(batch, self.accumulate)
        if len(parts) == 1:
            return OnePass(batch, self.run, self.backward_of, self.device)
        method = self.weighting  # a subclass of one that needs no batch may learn from it all the same
        if method.needs_batch or method.needs_influence or any(p.requires_grad for p in method.parameters()):
            return TwoPasses(batch, parts, self.run, self.backward_of, self.device)
        return PassByPart(
            batch, parts, self.run, self.backward_of, self.device, lambda *part: self.weights_of(self.step_of(*part))
        )

    def meta_step(self, batch: dict[str, Tensor], passes: Passes) -> Tensor | None:
        """The influence u ``(B, K)`` of each term of each sample on the held-out loss; None where no meta step is due.

        Its memory and that of the training pass are not added up where one can wait for the other: without a lookahead
        the training pass is left for later, and a lookahead whose gradient is that of the student's step comes after
        its backward.
        """
        meta = self.meta
        if meta is None or not self.weighting.needs_influence or not meta.due(self.global_step, self.progress):
            return None
        self.frozen.answer(batch, self.reads)
        weights, gradient = (
            constant((1.0,), self.ledger.table.dtype, self.device).expand(len(batch["index"]), len(self.terms)),
            None,
        )
        if meta.lookahead_lr is not None:  # nothing else reads them
            weights = self.weights_of(self.step_of(batch, *passes.forward()))
            if shares_gradient(self.weighting, meta, self.updated_weights):
                passes.descend(weights)
                gradient = {n: p.grad for n, p in self.student.named_parameters() if p.grad is not None}
        return meta.influence(
            self.student,
            batch,
            lambda: passes.forward()[0],
            lambda o: stack(self.loss_terms, o, batch),
            weights,
            passes.randomness,
            gradient,
            lambda names: self.slopes(passes, names),
            self.weighting.by_halves,
        )

    def slopes(self, passes: Passes, names: Collection[str]) -> dict[str, Tensor] | None:
        """∂l_ik/∂o_i ``(B, K, ...)`` of these outputs, by the graph of the training pass; None where there is none, or
        where a sample's terms read other samples.

        A sample's term reads that sample's outputs alone, so the gradient of its sum over the samples holds those of
        all. Where the terms depend on nothing else, the student's backward goes on from there.
        """
        if not isinstance(passes, OnePass) or passes.descended is not None:
            return None
        outputs, _ = passes.forward()
        if not self.columns or not all(name in outputs and outputs[name].requires_grad for name in names):
            return None
        at, first = [outputs[name] for name in names], self.columns[0]
        ones = constant((1.0,) * len(first), first.dtype, first.device)
        each = functools.partial(torch.autograd.grad, retain_graph=True, allow_unused=True, materialize_grads=True)
        by_term = [
            each(column, at, ones.to(column.dtype)) if column.requires_grad else [torch.zeros_like(o) for o in at]
            for column in self.columns
        ]
        found = {name: torch.stack(one, 1) for name, one in zip(names, zip(*by_term, strict=True), strict=True)}
        if len(at) == 1 and all(goes_through(column, at[0]) for column in self.columns):
            passes.slopes = next(iter(found.items()))
        return found

    def weigh(self, step: Step, passes: Passes, watch: Watch) -> Tensor:
        """Train the method's own parameters φ, and return the weights ``(B, K)``."""
        if isinstance(passes, PassByPart):
            return passes.weights
        current = self.weights_of(step) if self.updated_weights == "current" else None
        own = self.weighting.own_loss(step)
        if own is not None:
            gradient = gradient_of_all_ranks(own, [p for p in self.weighting.parameters() if p.requires_grad])
            watch.gradient(
                "gradient of the weighting", gradient, "lower `weighting.lr`, or look at the meta-network's features"
            )
            found = watch.found()
            if found is not None and step.later is not None and step.later.idle:
                found = torch.stack([found, *(x.to(found.dtype) for x in step.later.idle)]).amax()
            # past Lightning's wrapper: ``max_steps`` counts student steps alone
            for optimizer in self.trainer.optimizers[1:]:
                unless(found, optimizer)
                optimizer.step()
        return current if current is not None else self.weights_of(step)

    def student_step(self, passes: Passes, weights: Tensor, watch: Watch) -> None:
        """Backward, clipping, optimizer and schedule; the gradient may have been taken on the way to the weights."""
        if passes.descended is None:
            passes.descend(weights)
        elif weights is not passes.descended:
            check_unmoved(self.weighting, passes.descended, weights)
        self.columns = ()
        norm = nn.utils.clip_grad_norm_(self.trained.parameters(), math.inf if self.clip is None else self.clip)
        watch.number("gradient", norm, "lower `optimizer.lr`, look at the loss terms, or use `precision=32-true`")
        optimizers = self.optimizers()
        optimizer: Any = optimizers[0] if isinstance(optimizers, list) else optimizers
        unless(watch.found(), self.trainer.optimizers[0])
        optimizer.step()
        optimizer.zero_grad()
        scheduler: Any = self.lr_schedulers()
        if scheduler is not None:
            scheduler.step()

    def record(self, step: Step, watch: Watch, weights: Tensor) -> None:
        """Keep and log the step; the weights ``(world·B, K)`` are those of all ranks."""
        bad, visit = None if self.guard is None else self.guard.bad, watch.visit
        with undone_where(bad, self.weighting):
            self.weighting.observe(step)
        unit = unit_influence(step) if step.influence is not None and world_size() == 1 else None
        values, weights = self.ledger.record(visit, weights, bad, unit)
        heard = (weights, visit.valid) if self.weighting.needs_influence else ()
        done = self.global_step
        if self.guard is None:
            self.sound(done, *(x.numpy() for x in heard))
        else:
            self.guard.end(watch, heard, lambda *found: self.sound(done, *found))
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if (
            every and self.global_step % every == 0
        ) or self.trainer.is_last_batch:  # no other is kept, and logging is slow
            self.settle()
            self.log_dict(summary(self.term_names, values, weights, visit.valid))
            self.log("loss", (weights * values).sum(1).mean().float(), prog_bar=True)

    def sound(self, done: int, *heard: NDArray[Any]) -> None:
        """Warn of a collapse of the weights, by those after ``done`` steps; of nothing, where none are given."""
        message = self.alarm(*heard) if heard else None
        if message and self.trainer.is_global_zero:
            log.warning("step %d: %s", done, message)

    def run(self, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """The student's outputs and losses ``(B, K)``; the teacher too is asked where the batch lacks what the terms
        read.
        """
        self.frozen.answer(batch, self.reads)
        outputs = self.student(batch)
        if isinstance(outputs, Mapping):  # half precision is raised once for all terms, and their slopes stay exact
            outputs = {n: at_least_float32(o) if n in self.reads else o for n, o in outputs.items()}
        columns = losses(self.loss_terms, outputs, batch)
        self.columns = () if any(term.in_batch for term in self.loss_terms) else columns
        return outputs, torch.stack(columns, 1)

    def step_of(
        self, batch: dict[str, Tensor], outputs: Mapping[str, Tensor], losses: Tensor, influence: Tensor | None = None
    ) -> Step:
        """The rows as the weighting method may read them."""
        valid = torch.stack([term.valid(batch) for term in self.loss_terms], 1)
        head = getattr(self.student, "head", None)
        shared = tuple(head.parameters()) if isinstance(head, nn.Module) else ()
        return Step(
            losses,
            valid,
            self.term_names,
            {n: o.detach() for n, o in outputs.items()},
            batch,
            self.progress,
            influence,
            self.ledger.history(batch["index"]),
            shared,
            None if self.guard is None else Later(),
            0 if self.meta is None else self.meta.turn,
        )

    def weights_of(self, step: Step) -> Tensor:
        """The weights ``(B, K)`` of the present φ, detached, without terms that have no value."""
        with torch.no_grad():
            return masked(self.weighting(step), step.valid)

    def backward_of(self, loss: Tensor, last: bool, **options: Any) -> None:
        """Add a loss's gradient to the student's; the last one's brings in those of the other ranks."""
        no_sync = getattr(self.trainer.strategy.model, "no_sync", None)
        alone = contextlib.nullcontext() if last or no_sync is None else no_sync()
        with alone, torch.autocast(self.device.type, enabled=False):  # the types are those of the forward pass
            self.manual_backward(loss, **options)
