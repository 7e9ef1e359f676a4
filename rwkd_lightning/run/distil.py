"""Stage 3 of every system: train the student in the run's folder, from where an interrupted run left it."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from rwkd_lightning.data.resumable import ResumableDataModule
from rwkd_lightning.report import page as report
from rwkd_lightning.run.callbacks import callbacks_of
from rwkd_lightning.run.epochs import EPOCHS, Epochs
from rwkd_lightning.run.fit import Fitted, fit
from rwkd_lightning.run.histograms import WeightHistograms
from rwkd_lightning.run.loggers import begin, end, logger_of
from rwkd_lightning.run.signals import Stop
from rwkd_lightning.run.speed import compiled, matmul_precision
from rwkd_lightning.training.module import DistillationModule

log = logging.getLogger(__name__)


def distil(
    config: DictConfig,
    folder: Path,
    module: DistillationModule,
    loaders: ResumableDataModule,
    trainer_options: dict[str, Any],
    stop: Stop,
    anew: bool,
    monitor: str,
) -> Fitted:
    """Train; with ``trainer.select=best`` the module ends as the epoch with the largest ``monitor``."""
    log.info(
        "distilling with weighting=%s, %d rows, meta split of %d",
        module.weighting,
        loaders.train_size,
        len(loaders.rows("meta")),
    )
    logger = logger_of(config, folder)
    if logger is not None:
        begin(logger, config, folder)
    try:
        with matmul_precision(config.trainer.matmul), compiled(module.student, config.trainer.compile):
            return fit(
                module,
                loaders,
                folder,
                trainer_options,
                monitor=monitor if config.trainer.select == "best" else None,
                description=f"student ({config.weighting_name})",
                stop=stop,
                intervals=config.checkpoint,
                anew=anew,
                callbacks=[
                    Epochs(folder / EPOCHS),
                    *([WeightHistograms()] if logger is not None else []),
                    *callbacks_of(config, monitor),
                ],
                logger=logger,
            )
    finally:
        if logger is not None:
            end(logger)


def clear(folder: Path, *more: str) -> None:
    """Remove what an earlier run has left in its folder, ``more`` being what this system alone leaves."""
    for name in (
        "metrics.json",
        "weights.parquet",
        "predictions.parquet",
        report.FILE,
        EPOCHS,
        "student",
        "export",
        "checkpoints",
        "log",
        "failed_step.safetensors",
        "failed_step.json",
        *more,
    ):
        remove(folder / name)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
