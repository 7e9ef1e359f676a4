"""Callbacks that a user attaches to the student's training, by the group ``callbacks``."""

from __future__ import annotations

import copy
import difflib
import io
import logging
from collections.abc import Sequence
from typing import Any

import lightning
import torch
from lightning.pytorch import callbacks as theirs
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.model_summary.model_summary import summarize
from omegaconf import DictConfig

from rwkd_lightning.run.create import create
from rwkd_lightning.run.pruning import Pruning
from rwkd_lightning.utils.errors import UserError

log = logging.getLogger(__name__)
UNFIT: dict[str, str] = {
    "Checkpoint": "the run keeps its own checkpoints; see trainer.select=best and checkpoint.minutes=10",
    "ProgressBar": "the run shows a bar of its own; leave it out",
    "GradientAccumulationScheduler": "use trainer.accumulate=2",
    "StochasticWeightAveraging": "it would train with a schedule of its own; leave it out",
    "WeightAveraging": "it would put another student in the place of the one that is chosen; leave it out",
    "BaseFinetuning": "it changes the optimizer's parameters on the way; leave it out",
    "BatchSizeFinder": "set data.batch_size=16",
    "LearningRateFinder": "set optimizer.lr=1e-4",
}
"""Kinds of Lightning's callbacks that this loop cannot run under, and what to do instead."""
TO_A_LOGGER = (theirs.LearningRateMonitor, theirs.DeviceStatsMonitor, theirs.ThroughputMonitor)


class ModelSummary(Callback):
    """Shows a table of the modules and their parameters when the training starts, by the run's own messages.

    Args:
        max_depth: of the modules that are shown; -1: all.
    """

    def __init__(self, max_depth: int = 2) -> None:
        self.max_depth = max_depth

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.is_global_zero:
            log.info("%s", summarize(pl_module, max_depth=self.max_depth))


def callbacks_of(config: DictConfig, monitor: str = "score") -> list[Callback]:
    """The callbacks of the config, in the order of its keys.

    Args:
        monitor: the score that ``trainer.select=best`` goes by, for those whose ``monitor`` is null.

    Raises:
        UserError: for what is no callback, does not go with the loop, or lacks what it needs.
    """
    config = copy.deepcopy(config)
    made = []
    for name, node in config.callbacks.items():
        if node is None:
            continue
        if not isinstance(node, DictConfig):
            raise UserError(f"callbacks.{name} is {node}; give a class: +callbacks.NAME._target_=my_package.MyCallback")
        if node.get("monitor", "") is None:
            node.monitor = f"meta/{monitor}"
        made.append(checked(create(config, f"callbacks.{name}", Callback), str(name), bool(config.logger)))
    return made


def checked(callback: Callback, name: str, logs: bool) -> Callback:
    """The callback; UserError as `callbacks_of`."""
    kind = type(callback).__name__
    for unfit, instead in UNFIT.items():
        if isinstance(callback, getattr(theirs, unfit, ())):
            raise UserError(f"callbacks.{name}: a {kind} does not go with this loop; {instead}")
    if isinstance(callback, TO_A_LOGGER) and not logs:
        raise UserError(
            f"callbacks.{name}: a {kind} writes to a logger, and logger=csv has none of Lightning's; add "
            "logger=tensorboard, or leave it out"
        )
    if not kept_by_checkpoints(callback.state_dict()):
        raise UserError(
            f"callbacks.{name}: the state_dict of {kind} holds more than numbers, texts and tensors, so that no "
            "interrupted run could go on with it"
        )
    return callback


def kept_by_checkpoints(state: dict[str, Any]) -> bool:
    """Whether a state can be read again without unpickling."""
    file = io.BytesIO()
    try:
        torch.save(state, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception:  # of pickle or of torch
        return False
    return True


def validates(callback: Callback) -> bool:
    """Whether it does anything in a validation, so that there has to be one."""
    return any(
        getattr(type(callback), name) is not getattr(Callback, name) for name in dir(Callback) if "validation" in name
    )


def check_monitors(config: DictConfig, metrics: Sequence[str]) -> None:
    """Check that early stopping and pruning monitor what a training logs: Lightning asks only after the first epoch.

    Args:
        metrics: of the meta split.

    Raises:
        UserError: otherwise, unless its ``strict`` is false; for pruning without a search.
    """
    known = [
        *(f"meta/{name}" for name in metrics),
        "loss",
        *(f"{kind}/{term}" for term in config.terms for kind in ("loss", "weight", "weight_spread")),
    ]
    for callback in callbacks_of(config, metrics[0]):
        if isinstance(callback, Pruning):
            callback.trial()
            if config.trainer.devices != 1:
                raise UserError(
                    f"callbacks=pruning ends runs of one process, and trainer.devices={config.trainer.devices}; set "
                    "trainer.devices=1, or leave it out"
                )
            if callback.monitor not in known[: len(metrics)]:
                raise UserError(
                    f"pruning monitors {callback.monitor!r}, which is no score on the meta split; known are "
                    f"{', '.join(known[: len(metrics)])}"
                )
        if isinstance(callback, theirs.EarlyStopping) and callback.strict and callback.monitor not in known:
            near = difflib.get_close_matches(callback.monitor, known, 1, 0.3)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UserError(
                f"early stopping monitors {callback.monitor!r}, which is not logged; {hint}known are {', '.join(known)}"
            )
