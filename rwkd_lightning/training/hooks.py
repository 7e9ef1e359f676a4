"""The module beside its training step: its data, its predictions, its scores and its checkpoints, as Lightning asks for
them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rwkd_lightning.meta import MetaStep, rehearse
from rwkd_lightning.terms import Term
from rwkd_lightning.training.collapse_alarm import CollapseAlarm
from rwkd_lightning.training.compatibility import check_start, shares_gradient
from rwkd_lightning.training.contract import columns_of, device_of, rows_of
from rwkd_lightning.training.finite_check import Guard
from rwkd_lightning.training.frozen_teacher import FrozenTeacher
from rwkd_lightning.training.ledger import Ledger
from rwkd_lightning.training.random_states import RandomStates
from rwkd_lightning.training.steps import total_steps
from rwkd_lightning.training.validation import Validation
from rwkd_lightning.weighting import Weighting


class Hooks(lightning.LightningModule):
    """Base of `DistillationModule`, whose attributes these are."""

    student: nn.Module
    weighting: Weighting
    ledger: Ledger
    train_size: int | None
    alarm: CollapseAlarm
    validation: Validation
    random_states: RandomStates
    frozen: FrozenTeacher
    guard: Guard | None = None
    terms: nn.ModuleList
    meta: MetaStep | None
    updated_weights: str
    accumulate: int
    make_optimizer: Callable[[nn.Module], Optimizer]
    make_schedule: Callable[[Optimizer, int], LRScheduler] | None

    @property
    def teacher(self) -> nn.Module | None:
        """The frozen teacher; None where its logits come with the batches."""
        return self.frozen.network

    @property
    def reads(self) -> set[str]:
        """The outputs, of the student and of the teacher, that the terms read."""
        return set().union(*((*term.reads, term.teacher_output) for term in self.loss_terms))

    @property
    def trained(self) -> nn.Module:
        """The modules that the student's optimizer trains: the student, and terms with parameters of their own."""
        own = any(p.requires_grad for p in self.terms.parameters())
        return nn.ModuleList([self.student, self.terms]) if own else self.student

    @property
    def loss_terms(self) -> list[Term]:
        """The K terms."""
        return [term for term in self.terms if isinstance(term, Term)]

    @property
    def _ddp_params_and_buffers_to_ignore(self) -> list[str]:
        """DDP must not wait for gradients that no backward brings, nor copy rank 0's buffers over the others'."""
        ours = {id(p) for p in self.trained.parameters()}
        return [n for n, p in self.named_parameters() if id(p) not in ours] + [n for n, _ in self.named_buffers()]

    @property
    def progress(self) -> float:
        """Share of the student steps done, in [0, 1]."""
        return self.global_step / max(1, total_steps(self.trainer))

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The student's outputs by name; also those of ``predict_step``."""
        outputs: dict[str, Tensor] = self.student(batch)
        return outputs

    def setup(self, stage: str) -> None:
        """Make the ledger and show the method the training set, unless ``train_size`` says that both are done."""
        if stage != "fit" or self.train_size is not None:
            return
        self.trainer.fit_loop.setup_data()
        loader = self.trainer.train_dataloader
        size = rows_of(loader)
        if len(self.ledger.table) != size:  # else it is that of a checkpoint, or of an earlier fit
            self.ledger = Ledger(size, self.ledger.terms)
        if type(self.weighting).prepare is not Weighting.prepare:
            device = device_of(self.frozen.network)
            self.frozen.freeze(device)
            self.weighting.prepare(columns_of(loader, lambda batch: self.frozen.answer(batch, self.reads), device))

    def configure_optimizers(self) -> Any:
        optimizers = [self.make_optimizer(self.trained)]
        own = self.weighting.own_optimizer()
        if own is not None:
            optimizers.append(own)
        # the loader is there before the optimizers only if asked for
        self.trainer.fit_loop.setup_data()
        schedules = (
            [self.make_schedule(optimizers[0], total_steps(self.trainer))] if self.make_schedule is not None else []
        )
        return optimizers, schedules

    def on_fit_start(self) -> None:
        check_start(self)
        self.student.train()  # `from_pretrained` gives it in evaluation mode, and Lightning leaves modes as they are
        self.frozen.freeze(self.device)
        if self.meta is not None:
            with self.trainer.precision_plugin.forward_context():
                rehearse(
                    self.meta,
                    self.student,
                    self.device,
                    shares_gradient(self.weighting, self.meta, self.updated_weights),
                )
        self.random_states.begin(self.device)
        self.guard = Guard.of(self.device, self.trainer)

    def settle(self) -> None:
        """Read what the device has found so far; raises what the checks of the steps since raise."""
        if self.guard is not None:
            self.guard.read()

    def on_train_epoch_end(self) -> None:
        self.settle()

    def on_train_end(self) -> None:
        self.settle()

    def on_validation_start(self) -> None:
        self.frozen.freeze(self.device)

    def on_test_start(self) -> None:
        self.frozen.freeze(self.device)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.validation.update(self.student, batch)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.validation.update(self.student, batch)

    def on_validation_epoch_end(self) -> None:
        self.log_scores("meta")

    def on_test_epoch_end(self) -> None:
        self.log_scores("test")

    def log_scores(self, split: str) -> None:
        """Log the scores as ``<split>/<name>``; ``meta`` is the held-out split by which checkpoints are chosen."""
        for name, value in self.validation.compute().items():
            self.log(f"{split}/{name}", value, prog_bar=True, sync_dist=True)  # each rank has scored all rows

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.settle()  # nothing of a bad step gets into it
        checkpoint["random_states"] = self.random_states.save(self.device)
        checkpoint["alarm_count"] = self.alarm.count

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.train_size is None:  # its ledger is as long as that of the checkpoint
            self.ledger = Ledger(Ledger.size_saved(checkpoint["state_dict"], "ledger."), self.ledger.terms)
        self.random_states.load(checkpoint["random_states"])
        self.alarm.count = checkpoint["alarm_count"]
