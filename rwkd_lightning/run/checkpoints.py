"""Checkpoints that no kill, full disk or flipped byte spoils: written aside, moved, and known by their digest."""

from __future__ import annotations

import logging
import math
import os
import re
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.io import CheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from rwkd_lightning.cache.store import file_digest
from rwkd_lightning.run.processes import is_first
from rwkd_lightning.run.signals import Stop
from rwkd_lightning.utils.distributed import on_any_rank
from rwkd_lightning.utils.errors import UserError

log = logging.getLogger(__name__)
_NAME = re.compile(r"(?P<kind>step|best)-(?P<step>\d{9})-(?P<digest>[0-9a-f]{16})\.ckpt")
KEPT = 2


class AtomicCheckpointIO(CheckpointIO):
    """Writes ``NAME.ckpt`` as ``NAME-DIGEST.ckpt``, whole or not at all; reads tensors and plain values only."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        final = Path(path)
        final.parent.mkdir(parents=True, exist_ok=True)
        part = final.with_suffix(".part")
        try:
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, final.with_name(f"{final.stem}-{file_digest(part)[:16]}.ckpt"))
        finally:
            part.unlink(missing_ok=True)

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        loaded: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        return loaded

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        Path(path).unlink(missing_ok=True)


def written(folder: Path, kind: str) -> list[Path]:
    """The checkpoints of a kind, ``step`` or ``best``, oldest first."""
    found = [
        (int(match["step"]), path.stat().st_mtime_ns, path)
        for path in folder.glob(f"{kind}-*.ckpt")
        if (match := _NAME.fullmatch(path.name))
    ]
    return [path for *_, path in sorted(found)]


def whole(path: Path) -> bool:
    """Whether a checkpoint's bytes are those that were written."""
    match = _NAME.fullmatch(path.name)
    return match is not None and file_digest(path).startswith(match["digest"])


def newest(folder: Path) -> Path | None:
    """The last whole checkpoint of an interrupted training; tells of those that are not. None: start from the
    beginning.
    """
    found = written(folder, "step")
    for path in reversed(found):
        if whole(path):
            log.info("resuming from %s", path)
            return path
        log.warning("checkpoint %s is torn or was altered: it is not used", path)
    if found:
        log.warning("no checkpoint in %s is whole: starting from the beginning", folder)
    return None


class Checkpoints(Checkpoint):
    """Writes a checkpoint at the end of every epoch, every so often between, and before the process is told to stop.

    Args:
        folder: holds them; the last two are kept.
        stop: tells whether a signal asks to stop.
        minutes: between two checkpoints within an epoch; None: no time limit.
        steps: between two checkpoints within an epoch; None: no such limit.
        monitor: metric of the validation batches, larger is better; its best student is kept aside. None: no choice.

    Attributes:
        validated: student steps done at the last validation; -1 before the first.
        ended: whether a callback had ended the training by the last checkpoint, which a resumed one must not go on
            with.
    """

    def __init__(
        self,
        folder: Path,
        stop: Stop,
        minutes: float | None = 10.0,
        steps: int | None = None,
        monitor: str | None = None,
    ) -> None:
        for name, value in (("minutes", minutes), ("steps", steps)):
            if value is not None and not value > 0:
                raise UserError(f"checkpoint.{name} is {value}; give a number above 0, or null")
        self.folder, self.stop, self.minutes, self.steps, self.monitor = folder, stop, minutes, steps, monitor
        self.best: float | None = None
        self.validated = -1
        self.ended = False
        self.earlier_seconds = 0.0
        self._start = self._last = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Wall seconds of the training, those before an interruption included."""
        return self.earlier_seconds + time.perf_counter() - self._start

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._start = self._last = time.perf_counter()
        self.stop.when_told = True
        self.stop.take()  # Lightning has put a handler of its own in between
        trainer.should_stop = trainer.should_stop or self.ended
        if is_first():
            for path in (*written(self.folder, "step"), *written(self.folder, "best")):
                if int(path.name.split("-")[1]) > trainer.global_step:  # a torn one would push out the one before it
                    path.unlink()
            for path in self.folder.glob("*.part"):  # of a killed process
                path.unlink()

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        if trainer.is_last_batch or trainer.global_step == trainer.max_steps:
            return  # the epoch's end is near, with its validation
        timed = self.minutes is not None and time.perf_counter() - self._last > 60 * self.minutes
        # all or none: saving and stopping take all of them
        timed, told = on_any_rank(timed and is_first(), self.stop.told, device=trainer.strategy.root_device)
        if timed or told or (self.steps is not None and trainer.global_step % self.steps == 0):
            self.save(trainer)
        if told:
            self.stop.now()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self.monitor is None or trainer.sanity_checking:
            return
        value, self.validated = float(trainer.callback_metrics[self.monitor]), trainer.global_step
        if self.best is None or value > self.best or (math.isnan(self.best) and not math.isnan(value)):
            self.best = value
            trainer.save_checkpoint(self.folder / f"best-{trainer.global_step:09d}.ckpt", weights_only=True)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.save(trainer)
        (told,) = on_any_rank(self.stop.told, device=trainer.strategy.root_device)
        if told:
            self.stop.now()

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.stop.when_told = False

    def save(self, trainer: lightning.Trainer) -> None:
        """Write one, and remove what is older than the last two."""
        self.ended = trainer.should_stop
        trainer.save_checkpoint(self.folder / f"step-{trainer.global_step:09d}.ckpt", weights_only=False)
        self._last = time.perf_counter()
        if is_first():
            for kind in ("step", "best"):
                for path in written(self.folder, kind)[:-KEPT]:
                    path.unlink()

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "validated": self.validated, "seconds": self.seconds, "ended": self.ended}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.validated, self.earlier_seconds = (
            state_dict[name] for name in ("best", "validated", "seconds")
        )
        self.ended = state_dict.get("ended", False)
