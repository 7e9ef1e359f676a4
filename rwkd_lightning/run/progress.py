"""How far a training has come, and how long it still takes: a bar on a terminal, lines in a log file."""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from rwkd_lightning.utils import bars
from rwkd_lightning.utils.bars import EVERY, FIRST, spoken

log = logging.getLogger(__name__)


class TimeLeft:
    """The time that the whole training still takes, by the steps since it began or was resumed."""

    def __init__(self, trainer: lightning.Trainer) -> None:
        self.began, self.first = time.monotonic(), trainer.global_step
        self.total = steps_of(trainer)

    def seconds(self, trainer: lightning.Trainer) -> float:
        """Until the last step; infinite before the first one, and where no end is known."""
        done = trainer.global_step - self.first
        if not done:
            return math.inf
        return (self.total - trainer.global_step) * (time.monotonic() - self.began) / done


def steps_of(trainer: lightning.Trainer) -> float:
    """Student steps of the whole training; infinite where no end is known."""
    epochs, steps = trainer.max_epochs, trainer.max_steps
    by_epochs = epochs * float(trainer.num_training_batches) if epochs is not None and epochs >= 0 else math.inf
    return min(by_epochs, steps if steps >= 0 else math.inf)


class Bar(TQDMProgressBar):
    """Lightning's bar, which names the stage and tells the time left for all epochs; passes that score have no bar of
    their own beside it.
    """

    def __init__(self, description: str) -> None:
        super().__init__(refresh_rate=5)
        self.description = description
        self.left: TimeLeft | None = None

    def get_metrics(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> dict[str, Any]:
        kept = {k: v for k, v in super().get_metrics(trainer, pl_module).items() if k != "v_num"}
        seconds = math.inf if self.left is None else self.left.seconds(trainer)
        return kept if seconds == math.inf else {"left": spoken(seconds), **kept}

    def init_train_tqdm(self) -> Tqdm:
        bar = super().init_train_tqdm()
        bar.bar_format = bars.narrow("{postfix}") or bar.bar_format
        return bar

    def init_validation_tqdm(self) -> Tqdm:
        return Tqdm(disable=True)

    def on_validation_start(self, trainer: lightning.Trainer, *args: Any) -> None:
        super().on_validation_start(trainer, *args)
        if not trainer.sanity_checking and self.left is not None:
            self.name(trainer, ", scoring")

    def on_validation_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        super().on_validation_end(trainer, *args)
        if not trainer.sanity_checking and self.left is not None:
            self.name(trainer)

    def name(self, trainer: lightning.Trainer, more: str = "") -> None:
        """Say which stage it is."""
        self.train_progress_bar.set_description(f"{self.description}: epoch {trainer.current_epoch + 1}{more}")

    def on_train_start(self, trainer: lightning.Trainer, *args: Any) -> None:
        super().on_train_start(trainer, *args)
        self.left = TimeLeft(trainer)
        if (trainer.fit_loop.total_batch_idx + 1) % int(
            trainer.num_training_batches
        ):  # resumed: this epoch has no start
            self.on_train_epoch_start(trainer)

    def on_train_epoch_start(self, trainer: lightning.Trainer, *args: Any) -> None:
        super().on_train_epoch_start(trainer, *args)
        self.name(trainer)


class Lines(Callback):
    """A line of the run's messages every minute, where no bar can be drawn."""

    def __init__(self, description: str) -> None:
        self.description = description
        self.left: TimeLeft | None = None
        self.due = 0.0

    def on_train_start(self, trainer: lightning.Trainer, *args: Any) -> None:
        self.left = TimeLeft(trainer)
        self.due = time.monotonic() + FIRST

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        if self.left is None or not trainer.is_global_zero or time.monotonic() < self.due:
            return
        self.due = time.monotonic() + EVERY
        of = "" if self.left.total == math.inf else f" of {self.left.total:.0f}"
        log.info(
            "%s: epoch %d, step %d%s, %s left",
            self.description,
            trainer.current_epoch + 1,
            trainer.global_step,
            of,
            spoken(self.left.seconds(trainer)),
        )
