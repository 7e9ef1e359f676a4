"""One training, of a teacher or of a student, under Lightning's Trainer."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import AdvancedProfiler, Profiler, SimpleProfiler

from rwkd_lightning.run.callbacks import validates
from rwkd_lightning.run.checkpoints import AtomicCheckpointIO, Checkpoints, newest, whole, written
from rwkd_lightning.run.faults import kept_for_replay
from rwkd_lightning.run.log_file import LogFile
from rwkd_lightning.run.processes import launching
from rwkd_lightning.run.progress import Bar, Lines
from rwkd_lightning.run.signals import Stop
from rwkd_lightning.training.compatibility import check_precision
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.utils import bars
from rwkd_lightning.utils.errors import UserError

log = logging.getLogger(__name__)
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true")


@dataclass
class Fitted:
    """The cost of a training, before an interruption included. Wall seconds, MiB (of this process)."""

    train_seconds: float
    steps: int
    peak_memory_mib: float
    """NaN where the system does not tell."""
    checkpoint: str


def fit(
    module: DistillationModule,
    data: lightning.LightningDataModule,
    folder: Path,
    trainer_options: dict[str, Any],
    monitor: str | None = None,
    description: str = "train",
    stop: Stop | None = None,
    intervals: Mapping[str, Any] | None = None,
    anew: bool = False,
    callbacks: Sequence[Callback] = (),
    logger: Logger | None = None,
) -> Fitted:
    """Train, resuming from the last checkpoint under ``folder`` if an interrupted run left one.

    Args:
        data: its train and, with ``monitor``, its validation batches.
        folder: gets ``checkpoints/`` and ``log/``.
        trainer_options: for ``lightning.Trainer``.
        monitor: metric on the validation batches to choose a checkpoint by (larger is better); the last student is
            always one to choose from. None: the last one is kept.
        description: shown before the progress bar.
        stop: takes the signals that ask to stop; None: one of its own.
        intervals: ``minutes`` and ``steps`` of `Checkpoints`.
        anew: do not resume, as another process may still be removing what was left.
        callbacks: further ones; where one of them looks at a validation, the meta split is scored.
        logger: gets what is logged, besides ``log/metrics.csv``.

    Raises:
        UserError: for precisions and strategies that the loop cannot run under.
    """
    refuse(trainer_options)
    quiet()
    kept = folder / "checkpoints"
    checkpoints = Checkpoints(kept, stop or Stop(), monitor=f"meta/{monitor}" if monitor else None, **(intervals or {}))
    every = int(trainer_options.get("log_every_n_steps", 50))
    used: list[Callback] = [LogFile(folder / "log" / "metrics.csv", every), *callbacks, checkpoints]
    if bars.shown():
        used.insert(0, Bar(description) if bars.drawn() else Lines(description))
    own = {
        "plugins": [*trainer_options.get("plugins", []), AtomicCheckpointIO()],
        "profiler": profiler_of(trainer_options.get("profiler"), folder / "log"),
    }
    trainer = lightning.Trainer(
        **{**trainer_options, **own},
        callbacks=used,
        logger=logger or False,
        enable_progress_bar=bars.drawn(),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        limit_val_batches=1.0 if monitor is not None or any(map(validates, callbacks)) else 0,
    )
    last = None if anew else newest(kept)
    cuda = trainer.strategy.root_device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    with launching(), kept_for_replay(folder, data):
        trainer.fit(module, datamodule=data, ckpt_path=last)
        if trainer.should_stop:
            log.info("%s: ended early, at step %d", description, trainer.global_step)
        if (
            monitor is not None and checkpoints.validated != trainer.global_step
        ):  # the last student is one to choose from
            trainer.validate(module, datamodule=data, verbose=False)
    chosen = "last"
    if monitor is not None:
        path = written(kept, "best")[-1]
        if not whole(path):
            raise UserError(f"checkpoint {path} was altered since it was written; delete {kept} to train again")
        best = AtomicCheckpointIO().load_checkpoint(path)
        module.load_state_dict(best["state_dict"])
        chosen = f"best meta/{monitor}, step {best['global_step']}"
    peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else resident_peak_mib()
    return Fitted(checkpoints.seconds, trainer.global_step, peak, chosen)


def refuse(options: dict[str, Any]) -> None:
    """Refuse what the manually optimised bi-level loop cannot run under, and say what it can."""
    check_precision(str(options.get("precision", "32-true")))
    strategy = str(options.get("strategy", "auto"))
    if strategy not in STRATEGIES:
        raise UserError(
            f"trainer.strategy={strategy}: the loop with its two optimizers, stepped by hand, runs only under "
            f"{', '.join(STRATEGIES)}; use trainer=ddp trainer.devices=2 (a teacher too large for the device is used "
            "through its cached logits)"
        )


def profiler_of(name: str | None, folder: Path) -> Profiler | None:
    """Lightning's profiler of this name, ``simple`` or ``advanced``, which writes to the folder; None for None."""
    return (
        {"simple": SimpleProfiler, "advanced": AdvancedProfiler}[name](folder, "profile") if name is not None else None
    )


def quiet() -> None:
    """Keep Lightning from advertising and from warning about choices made on purpose."""
    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*Checkpoint directory .* exists.*",
        ".*The number of training batches.*",
        ".*GPU available but not used.*",
        ".*no `val_dataloader`.*",
        ".*your dataloader is not resumable.*",  # the data module is
        ".*LeafSpec.*",
        ".*LightningModule.*has .* modules? in eval mode.*",
    ):
        warnings.filterwarnings("ignore", message)


def resident_peak_mib() -> float:
    """Largest resident size of this process so far; NaN on a system without ``getrusage`` (Windows)."""
    try:
        import resource
    except ImportError:
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
