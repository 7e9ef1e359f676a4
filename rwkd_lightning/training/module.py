"""The LightningModule: student, frozen teacher and meta-learner in one manually optimised loop."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rwkd_lightning.meta import MetaStep, rehearse
from rwkd_lightning.terms import Term, stack
from rwkd_lightning.training.batch_passes import OnePass, TwoPasses, joined, split
from rwkd_lightning.training.collapse_alarm import CollapseAlarm
from rwkd_lightning.training.compatibility import (
    check_coupled,
    check_loop,
    check_parts,
    check_precision,
    check_reach,
    check_unmoved,
    shares_gradient,
)
from rwkd_lightning.training.finite_check import Watch
from rwkd_lightning.training.ledger import Ledger
from rwkd_lightning.utils.distributed import all_reduce_mean, gather_objects, rank
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting import Step, Weighting, masked
from rwkd_lightning.weighting.columns import Columns

log = logging.getLogger(__name__)


class DistillationModule(lightning.LightningModule):
    """Trains a student on mean_i Σ_k w_ik·l_ik, the weights w given by a weighting method.

    It knows no task: the student maps a batch to outputs by name, the terms map outputs and batch to one loss a sample.

    Args:
        student: batch -> outputs by name, one row a sample.
        terms: the K loss terms.
        weighting: gives each of them its weight.
        optimizer: module -> optimizer; the module is the student, with the terms beside it where they have parameters.
        schedule: (optimizer, total student steps) -> scheduler, stepped once a student step; None: constant rate.
        train_size: N training samples; ``batch["index"]`` runs over them.
        meta: the meta step, for methods that need one.
        teacher: batch -> outputs; asked where the batch does not carry as ``teacher_<name>`` what the terms read of it
            (``logits`` always). Frozen, never in the checkpoint.
        updated_weights: ``"new"``: the student uses the weights of the φ just updated; ``"current"``: of the one before.
        clip: largest norm of the student's gradient; None: no clipping.
        accumulate: parts in which a batch goes through the student, for memory; the step is that of the whole batch.
        metrics: torchmetrics by name, updated with ``logits`` and ``labels`` on the validation batches.

    Raises:
        UserError: if the pieces do not fit each other.
    """

    def __init__(self, student: nn.Module, terms: Sequence[Term], weighting: Weighting,
                 optimizer: Callable[[nn.Module], Optimizer], train_size: int,
                 schedule: Callable[[Optimizer, int], LRScheduler] | None = None, meta: MetaStep | None = None,
                 teacher: nn.Module | None = None, updated_weights: str = "new", clip: float | None = 1.0,
                 accumulate: int = 1, metrics: Mapping[str, Callable[[Tensor, Tensor], Tensor]] | None = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        check_loop(weighting, meta, updated_weights, clip, accumulate)
        check_parts(student, accumulate)
        check_coupled(terms, accumulate)
        check_reach(terms, weighting, meta.theta if meta is not None else None, student)
        self.student = student
        self.terms = nn.ModuleList(terms)
        self.term_names = Columns.of(terms)
        self.weighting = weighting
        self.meta = meta
        if meta is not None:
            meta.build(student)
        self.ledger = Ledger(train_size, self.term_names)
        self.alarm = CollapseAlarm(self.term_names, weighting.collapse_remedy)
        self.make_optimizer = optimizer
        self.make_schedule = schedule
        self.updated_weights = updated_weights
        self.clip = clip
        self.accumulate = accumulate
        self.metrics = dict(metrics or {})
        self._validation: list[tuple[Tensor, Tensor]] = []
        self._random_state: tuple[Tensor, Tensor | None] | None = None
        self._teacher = [teacher] if teacher is not None else []  # in a list: out of the checkpoint, of train() and of DDP
        # DDP must not wait for gradients that no backward of the student brings, nor copy rank 0's buffers over the others'
        ours = {id(x) for part in (self.student, self.terms) for x in part.parameters()}
        named = [*((n, p) for n, p in self.named_parameters() if id(p) not in ours), *self.named_buffers()]
        self._ddp_params_and_buffers_to_ignore = [name for name, _ in named]

    @property
    def teacher(self) -> nn.Module | None:
        """The frozen teacher; None where its logits come with the batches."""
        return self._teacher[0] if self._teacher else None

    @property
    def reads(self) -> set[str]:
        """The outputs, of the student and of the teacher, that the terms and the weighting read."""
        return {"logits"}.union(*((*term.reads, term.teacher_output) for term in self.loss_terms))

    @property
    def trained(self) -> nn.Module:
        """What the student's optimizer trains: the student and, where they have some, the terms' own parameters."""
        own = any(p.requires_grad for p in self.terms.parameters())
        return nn.ModuleList([self.student, self.terms]) if own else self.student

    @property
    def loss_terms(self) -> list[Term]:
        """The K terms."""
        return [term for term in self.terms if isinstance(term, Term)]

    # Training

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        batch["progress"] = torch.tensor(self.progress, device=self.device)  # for terms that change with the training
        parts = split(batch, self.accumulate)
        method = self.weighting  # a subclass of one that needs no batch may learn from it all the same
        learns = method.needs_influence or any(p.requires_grad for p in method.parameters())
        if len(parts) == 1 or method.needs_batch or learns:
            self.learn_by_batch(batch, parts)
        else:
            self.learn_by_sample(batch, parts)

    def learn_by_batch(self, batch: dict[str, Tensor], parts: list[dict[str, Tensor]]) -> None:
        """One student step with weights that are known when all rows have been through the student."""
        how = self.run, self.backward_of, self.device
        passes = OnePass(batch, *how) if len(parts) == 1 else TwoPasses(batch, parts, *how)
        influence = descended = None
        if self.weighting.needs_influence and self.meta is not None and self.meta.due(self.global_step, self.progress):
            influence, descended = self.influence(self.meta, batch, passes)
        step = self.step_of(batch, *passes.forward())
        step.influence = influence
        watch = self.watch(step)
        weights = self.weigh(step, watch)
        used = watch.weights_of_all(weights)
        if descended is None:
            passes.descend(weights)
        else:
            check_unmoved(self.weighting, descended, weights)
        self.finish(step, watch, used)

    def learn_by_sample(self, batch: dict[str, Tensor], parts: list[dict[str, Tensor]]) -> None:
        """One student step with weights that a part knows of its rows by itself, so that one pass over each does."""
        outputs, losses, weights = [], [], []
        for part in parts:
            given, loss = self.run(part)
            step = self.step_of(part, given, loss)
            weights.append(masked(self.weighting(step).detach(), step.valid))
            self.backward_of((weights[-1] * loss).sum() / len(batch["index"]), part is parts[-1])
            outputs.append(step.outputs)
            losses.append(loss.detach())
        batch.update(joined(parts, parts))
        step = self.step_of(batch, joined(outputs, parts), torch.cat(losses))
        watch = self.watch(step)
        self.finish(step, watch, watch.weights_of_all(torch.cat(weights)))

    def run(self, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """The student's outputs and losses ``(B, K)``; the teacher too is asked where the batch lacks what the terms read."""
        self.ask_teacher(batch)
        outputs = self.student(batch)
        return outputs, stack(self.loss_terms, outputs, batch)

    def ask_teacher(self, batch: dict[str, Tensor]) -> None:
        """Add to the batch what the terms read of the teacher, where it is not there already."""
        if self._teacher and any(f"teacher_{name}" not in batch for name in self.reads):
            with torch.no_grad():
                given = self._teacher[0](batch)
            for name in self.reads & given.keys():  # what it does not give the term that reads it will name
                batch.setdefault(f"teacher_{name}", given[name].clone() if given[name].is_inference() else given[name])

    def step_of(self, batch: dict[str, Tensor], outputs: Mapping[str, Tensor], losses: Tensor) -> Step:
        """What the weighting method may read about these rows."""
        valid = torch.stack([term.valid(batch) for term in self.loss_terms], 1)
        head = getattr(self.student, "head", None)
        shared = tuple(head.parameters()) if isinstance(head, nn.Module) else ()
        return Step(losses, valid, self.term_names, {n: o.detach() for n, o in outputs.items()}, batch, self.progress,
                    history=self.ledger.history(batch["index"]), shared_parameters=shared)

    def influence(self, meta: MetaStep, batch: dict[str, Tensor], passes: OnePass | TwoPasses) -> tuple[Tensor, Tensor | None]:
        """Take the meta step: u ``(B, K)``, and the weights of the student's gradient where that was taken on the way.

        Its memory and that of the training pass are not added up where one can wait for the other: without a lookahead the
        training pass is left for later, and a lookahead whose gradient is that of the student's step comes after its backward.
        """
        self.ask_teacher(batch)
        weights = self.ledger.weights.new_ones(len(batch["index"]), len(self.terms))
        descended = gradient = None
        if meta.lookahead_lr is not None:  # nothing else reads them
            step = self.step_of(batch, *passes.forward())
            weights = masked(self.weighting(step).detach(), step.valid)
            del step  # and with it the graph, once the backward is taken
            if shares_gradient(self.weighting, meta, self.updated_weights):
                passes.descend(weights)
                descended = weights
                gradient = {n: p.grad for n, p in self.student.named_parameters() if p.grad is not None}
        u = meta.influence(self.student, batch, lambda: passes.forward()[0], lambda o: stack(self.loss_terms, o, batch),
                           weights, passes.randomness, gradient)
        return u, descended

    def watch(self, step: Step) -> Watch:
        """What all ranks found out about their rows; all of it is finite."""
        return Watch(step, self.meta, self.global_step, self.current_epoch)

    def weigh(self, step: Step, watch: Watch) -> Tensor:
        """Train the method's own parameters, and return the weights ``(B, K)``."""
        current = masked(self.weighting(step).detach(), step.valid) if self.updated_weights == "current" else None
        own = self.weighting.own_loss(step)
        if own is not None:
            self.step_weighting(own, watch)
        return current if current is not None else masked(self.weighting(step).detach(), step.valid)

    def step_weighting(self, loss: Tensor, watch: Watch) -> None:
        """One step of the method's own parameters along the gradient of all ranks: ``autograd.grad`` runs no DDP hook.

        Past Lightning's wrapper, so that ``max_steps`` counts student steps alone.
        """
        parameters = [p for p in self.weighting.parameters() if p.requires_grad]
        with torch.autocast(self.device.type, enabled=False):  # a backward inside it is rounded, whatever the forward was
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = None if g is None else all_reduce_mean(g)
        norm = nn.utils.clip_grad_norm_(parameters, math.inf)
        watch.number("gradient of the weighting", norm, "lower weighting.lr, or look at what meta_features gives")
        optimizers = self.trainer.optimizers
        if len(optimizers) > 1:
            optimizers[1].step()
            optimizers[1].zero_grad()

    def backward_of(self, loss: Tensor, last: bool) -> None:
        """Add a loss's gradient to the student's; the last one's brings in those of the other ranks."""
        no_sync = getattr(self.trainer.strategy.model, "no_sync", None)
        with contextlib.nullcontext() if last or no_sync is None else no_sync():
            self.manual_backward(loss)

    def finish(self, step: Step, watch: Watch, weights: Tensor) -> None:
        """One student step, with clipping and schedule, and what is kept of it; the weights ``(world·B, K)`` are of all ranks."""
        norm = nn.utils.clip_grad_norm_(self.trained.parameters(), math.inf if self.clip is None else self.clip)
        watch.number("gradient", norm, "lower optimizer.lr, look at the loss terms, or use trainer.precision=32-true")
        optimizers = self.optimizers()
        optimizer: Any = optimizers[0] if isinstance(optimizers, list) else optimizers
        optimizer.step()
        optimizer.zero_grad()
        scheduler: Any = self.lr_schedulers()
        if scheduler is not None:
            scheduler.step()
        self.weighting.observe(step)
        losses, weights = self.ledger.record(watch.visit, weights)
        if self.weighting.needs_influence:
            self.sound_alarm(weights[watch.visit.valid.all(1)])  # another row has no choice
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if (every and self.global_step % every == 0) or self.trainer.is_last_batch:  # no other is kept, and logging is slow
            self.log_step(losses, weights, watch.visit.valid)

    def log_step(self, losses: Tensor, weights: Tensor, valid: Tensor) -> None:
        """Log every term, and mean and spread over the samples of every weight, of the samples for which the term has a value.

        NaN where there is no such sample: without an entry the log would repeat that of an earlier step.

        Args:
            losses: ``(B, K)``, of all ranks.
            weights: as these.
            valid: as these.
        """
        for name, every_loss, every_weight, known in zip(self.term_names, losses.T, weights.T, valid.T, strict=True):
            loss, weight = every_loss[known], every_weight[known]
            spread = weight.std(correction=0) if len(weight) else weight.mean()  # which warns of an empty tensor
            of_term = {"loss": loss.mean(), "weight": weight.mean(), "weight_spread": spread}
            self.log_dict({f"{kind}/{name}": value.float() for kind, value in of_term.items()})
        self.log("loss", (weights * losses).sum(1).mean().float(), prog_bar=True)

    def sound_alarm(self, weights: Tensor) -> None:
        """Warn of a collapse of the weights ``(B, K)`` of all ranks; of no rows there is nothing to say."""
        message = self.alarm(weights) if len(weights) else None
        if message and self.trainer.is_global_zero:
            log.warning("step %d: %s", self.global_step, message)

    # Set-up

    @property
    def total_steps(self) -> int:
        """Student steps of the whole run."""
        epochs = self.trainer.max_epochs
        steps = self.trainer.max_steps
        by_epochs = int(self.trainer.num_training_batches) * epochs if epochs is not None and epochs >= 0 else None
        bounds = [b for b in (by_epochs, steps if steps >= 0 else None) if b is not None]
        if not bounds:
            raise UserError("trainer.max_epochs=-1 with trainer.max_steps=-1: the schedule needs an end; set one of them")
        return min(bounds)

    @property
    def progress(self) -> float:
        """Share of the student steps done, in [0, 1]."""
        return self.global_step / max(1, self.total_steps)

    def configure_optimizers(self) -> Any:
        optimizers = [self.make_optimizer(self.trained)]
        own = self.weighting.own_optimizer()
        if own is not None:
            optimizers.append(own)
        # the loader is there before the optimizers only if asked for
        self.trainer.fit_loop.setup_data()
        schedules = [self.make_schedule(optimizers[0], self.total_steps)] if self.make_schedule is not None else []
        return optimizers, schedules

    def on_fit_start(self) -> None:
        check_precision(str(self.trainer.precision))
        check_coupled(self.loss_terms, self.accumulate, self.trainer.world_size)
        if getattr(self, "_compiler_ctx", None) is not None or self._compiled_call_impl is not None:
            raise UserError("torch.compile was given the DistillationModule, whose training step cannot be compiled; compile the "
                            "student alone: DistillationModule(torch.compile(student), ...)")
        self.student.train()  # `from_pretrained` gives it in evaluation mode, and Lightning leaves modes as they are
        for teacher in self._teacher:
            teacher.requires_grad_(False).eval().to(self.device)
        if self.meta is not None:
            with self.trainer.precision_plugin.forward_context():
                rehearse(self.meta, self.student, self.device, shares_gradient(self.weighting, self.meta, self.updated_weights))
        if self._random_state is not None:  # resumed: go on with the dropout masks of the interrupted run
            cpu, cuda = self._random_state
            torch.set_rng_state(cpu.cpu())
            if cuda is not None and self.device.type == "cuda":
                torch.cuda.set_rng_state(cuda.cpu(), self.device)
            self._random_state = None
        elif self.trainer.world_size > 1:  # all started from one seed: the same student, but not the same dropout masks
            torch.manual_seed(torch.initial_seed() + self.trainer.global_rank)

    # Choosing a checkpoint

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._validation.append((self.student(batch)["logits"].float().cpu(), batch["labels"].cpu()))

    def on_validation_epoch_end(self) -> None:
        if not self._validation:
            return
        logits, labels = (torch.cat(column) for column in zip(*self._validation, strict=True))
        self._validation.clear()
        for name, metric in self.metrics.items():
            self.log(f"meta/{name}", metric(logits, labels), prog_bar=True, sync_dist=True)  # each rank has scored all rows

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        checkpoint["random_states"] = gather_objects((torch.get_rng_state(), cuda))
        checkpoint["alarm_count"] = self.alarm.count

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        states = checkpoint["random_states"]
        self._random_state = states[rank() % len(states)]
        self.alarm.count = checkpoint["alarm_count"]
