"""Several processes, as Lightning's own launcher, torchrun or SLURM start them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.utilities import rank_zero_only

from rwkd_lightning.run.identity import ALL_TRAININGS

LAUNCHER = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE", "PL_GLOBAL_SEED")


def is_first() -> bool:
    """Whether this is the process that writes, as the launcher's environment tells also before the group exists."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


def processes(options: dict[str, Any]) -> int:
    """How many train together under these options for a Trainer."""
    counted = lightning.Trainer(
        **{**options, "logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    )
    return int(counted.num_devices * counted.num_nodes)


def alone(options: dict[str, Any]) -> dict[str, Any]:
    """Options for a training of its own on one device: what shortens, samples or spreads the student's is left out."""
    single = {name: options[name] for name in ALL_TRAININGS if name in options} | {"devices": 1}
    if "WORLD_SIZE" in os.environ:  # else Lightning would ask that launcher, and refuse
        single["plugins"] = [LightningEnvironment()]
    return single


@contextlib.contextmanager
def launching() -> Iterator[None]:
    """Leave no trace of the processes that a training has started, so that the next one of a sweep starts its own."""
    before = {name: os.environ.get(name) for name in LAUNCHER}
    try:
        yield
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
