"""The distribution of every term's weights over the training rows, in Lightning's loggers, once an epoch."""

from __future__ import annotations

import importlib
from typing import Any

import lightning
import numpy as np
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from rwkd_lightning.training.module import DistillationModule

QUANTILES = (10, 50, 90)


class WeightHistograms(Callback):
    """Logs the weights of the rows that the training has seen: quantiles, and histograms to the loggers that draw them.

    ``weight_p10/<term>`` and so on go to every logger; histograms ``weights/<term>`` to TensorBoard and W&B. Nothing is
    asked of the device between two epochs.
    """

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not trainer.is_global_zero or not isinstance(pl_module, DistillationModule):
            return
        columns = pl_module.ledger.columns()
        weights = {name.removeprefix("w_"): x.numpy() for name, x in columns.items() if name.startswith("w_")}
        weights = {term: values[np.isfinite(values)] for term, values in weights.items()}
        weights = {term: values for term, values in weights.items() if len(values)}
        quantiles = {
            f"weight_p{q}/{term}": float(np.percentile(values, q))
            for term, values in weights.items()
            for q in QUANTILES
        }
        for logger in trainer.loggers:
            logger.log_metrics(quantiles, trainer.global_step)
            draw(logger, weights, trainer.global_step)


def draw(logger: Logger, weights: dict[str, np.ndarray], step: int) -> None:
    """A histogram per term, where the logger has such a thing."""
    experiment: Any = getattr(logger, "experiment", None)
    kind = type(logger).__name__
    if kind == "TensorBoardLogger":
        for term, values in weights.items():
            experiment.add_histogram(f"weights/{term}", values, step)
    elif kind == "WandbLogger":
        wandb: Any = importlib.import_module("wandb")
        drawn = {f"weights/{term}": wandb.Histogram(values) for term, values in weights.items()}
        experiment.log({**drawn, "trainer/global_step": step})
