"""Jobs of SLURM: what a command line that submits them must say, and how the processes of one end together."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from rwkd_lightning.cli.flags import Unreadable, read
from rwkd_lightning.utils.errors import UserError


def check(arguments: Sequence[str], conf: Path) -> None:
    """Check a command line that submits its sweep to SLURM (``hydra/launcher=slurm``); any other passes.

    Raises:
        UserError: for a launcher without a sweep, without its package or its cluster, and for what SLURM cannot be
            asked for.
    """
    try:
        parsed, overrides = read(arguments)
    except Unreadable:
        return  # which the check of the command line tells
    given = {override.key_or_group: override for override in overrides}
    launcher = given["hydra/launcher"].value() if "hydra/launcher" in given else None
    mode = given["hydra.mode"].value() if "hydra.mode" in given else "MULTIRUN" if parsed.multirun else "RUN"
    if launcher is not None and mode != "MULTIRUN":
        raise UserError(f"hydra/launcher={launcher} is for sweeps and would do nothing here: add -m")
    if launcher != "slurm":
        return
    if importlib.util.find_spec("submitit") is None:
        raise UserError("hydra/launcher=slurm needs Hydra's launcher for SLURM: pip install hydra-submitit-launcher")
    if given.get("trainer.devices") and given["trainer.devices"].is_sweep_override():
        raise UserError(
            f"{given['trainer.devices'].input_line}: the jobs of one command get the same resources; one command each"
        )
    with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        try:
            single = [override.input_line or "" for override in overrides if not override.is_sweep_override()]
            config: Any = compose("config", single, return_hydra_config=True)
            trainer, resources = config.trainer, config.hydra.launcher
        except Exception:  # Hydra meets it again, and tells it
            return
        check_resources(trainer, resources)
    if not parsed.cfg and not (shutil.which("srun") and shutil.which("sbatch")):
        raise UserError(
            "hydra/launcher=slurm: there is no sbatch and srun here; submit on a machine of the cluster, or try the "
            "jobs on this one with hydra/launcher=submitit_local trainer=default"
        )


def check_resources(trainer: Any, resources: Any) -> None:
    """Check that what SLURM is asked for is what Lightning will use.

    Raises:
        UserError: otherwise; the job would fail only once it has waited for its turn.
    """
    devices = trainer.devices
    if not isinstance(devices, int) or devices < 1:
        raise UserError(f"trainer.devices={devices}: SLURM is asked for a number of devices; write trainer.devices=2")
    if resources.tasks_per_node != devices:
        raise UserError(
            f"hydra.launcher.tasks_per_node={resources.tasks_per_node}: SLURM starts one process a device, and "
            f"trainer.devices={devices}; set that one only"
        )
    if resources.nodes != 1:
        raise UserError(f"hydra.launcher.nodes={resources.nodes}: a job runs on one node; set trainer.devices only")
    if trainer.accelerator == "cpu" and resources.gpus_per_node is not None:
        raise UserError(
            "trainer.accelerator=cpu would leave the GPUs that SLURM is asked for unused; add "
            "hydra.launcher.gpus_per_node=null"
        )


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Of several processes that SLURM has started, end this one with status 1 when it fails, so that srun ends all.

    Hydra's launcher would keep the error and end as a success, while the others wait for this one until their time is
    over.
    """
    try:
        yield
    except Exception as error:
        if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) == 1:
            raise
        if isinstance(error, UserError):
            print(error, file=sys.stderr, flush=True)
        else:
            traceback.print_exc()
        sys.exit(1)


def restarted() -> bool:
    """Whether SLURM has put this job in its queue again, after its time was over or another job took its place."""
    return os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
