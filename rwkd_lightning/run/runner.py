"""What every run behind ``train.py`` shares: its folder, its lock, its signals; the stages are those of the task's system."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout
from omegaconf import DictConfig

from rwkd_lightning.cache.disk import writing
from rwkd_lightning.cli import schema as values
from rwkd_lightning.cli.words import config_words
from rwkd_lightning.run import inputs
from rwkd_lightning.run.distil import remove
from rwkd_lightning.run.faults import memory_told
from rwkd_lightning.run.inputs import Inputs
from rwkd_lightning.run.processes import is_first
from rwkd_lightning.run.result_table import table
from rwkd_lightning.run.signals import Stop
from rwkd_lightning.run.slurm import restarted
from rwkd_lightning.utils.errors import UserError


class System(Protocol):
    """The stages of one kind of model: a module of this package."""

    def carry_out(self, config: DictConfig, folder: Path, stop: Stop, force: bool) -> dict[str, Any]:
        """Run all stages; returns the metrics."""

    def inputs_of(self, config: DictConfig) -> Inputs:
        """The data and models that the config names, as they are now."""


def run(config: DictConfig, folder: Path) -> dict[str, Any]:
    """Do what the config asks for, in ``folder``; returns the metrics. A finished run only prints its table.

    Of several processes the first one prepares, trains along, evaluates and writes; the others train along, and return nothing.

    Raises:
        UserError: for every mistake in the input, before training starts where that is possible; for a finished run whose data
            or models are others now.
    """
    finished = folder / "metrics.json"
    force = config.force and not restarted()  # a job that goes on must not throw away what it has
    if finished.is_file() and not force:
        result: dict[str, Any] = json.loads(finished.read_text())
        if is_first():
            print(f"\n{table(result, str(folder))}\nalready finished; add force=true to run it again")
            check_finished(config, folder)
        return result
    if not is_first():
        logging.getLogger("rwkd_lightning").setLevel(logging.WARNING)  # the first process tells
    stop = Stop()
    with config_words(), stop.listening(), memory_told(), writing(folder, "runs_dir"), only_one(folder):
        values.check(config)
        return system_of(config.task.system).carry_out(config, folder, stop, force)


def check_finished(config: DictConfig, folder: Path) -> None:
    """Raise UserError if the table of a finished run is not that of the data and models of now."""
    before = inputs.read(folder)
    if before is None:
        return
    try:
        now = system_of(config.task.system).inputs_of(config)
    except UserError as error:
        print(f"its data and models could not be compared with those of now ({error})")
        return
    changed = inputs.changes(before, now)
    if others := [change for change in changed if "rwkd_lightning" not in change]:
        raise UserError(f"the table above is of other inputs than those of now: {'; '.join(others)}; add force=true to run it "
                        "again with those of now")
    if changed:
        print(f"it was made by another version: {changed[0]}")


def system_of(name: str) -> System:
    """One system by its name, imported only when it is the one.

    Raises:
        UserError: for a system that there is not.
    """
    system: Any
    if name == "text":
        from rwkd_lightning.systems.text import system
    elif name == "topics":
        from rwkd_lightning.systems.topics import system
    else:
        raise UserError(f"task.system={name!r} is not known; known are text and topics")
    found: System = system
    return found


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Let no second command write into the same run's folder."""
    if not is_first():  # part of the first one
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"another process is at work in {folder}; wait for it, or change a setting (seed=1) for a run of its "
                        "own") from None
    try:
        for left in (*folder.glob(".student-*"), *folder.glob(".*.part")):
            remove(left)  # a killed run's
        yield
    finally:
        lock.release()
