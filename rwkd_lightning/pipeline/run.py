"""What every run behind ``train.py`` shares: its folder, its lock, its signals; the stages are those of the task's system."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig

from rwkd_lightning.disk import writing
from rwkd_lightning.errors import UserError
from rwkd_lightning.pipeline import values
from rwkd_lightning.pipeline.distil import remove
from rwkd_lightning.pipeline.faults import memory_told
from rwkd_lightning.pipeline.launch import is_first
from rwkd_lightning.pipeline.report import table
from rwkd_lightning.pipeline.slurm import restarted
from rwkd_lightning.pipeline.stopping import Stop

Stages = Callable[[DictConfig, Path, Stop, bool], dict[str, Any]]


def run(config: DictConfig, folder: Path) -> dict[str, Any]:
    """Do what the config asks for, in ``folder``; returns the metrics. A finished run only prints its table.

    Of several processes the first one prepares, trains along, evaluates and writes; the others train along, and return nothing.

    Raises:
        UserError: for every mistake in the input, before training starts where that is possible.
    """
    finished = folder / "metrics.json"
    force = config.force and not restarted()  # a job that goes on must not throw away what it has
    if finished.is_file() and not force:
        result: dict[str, Any] = json.loads(finished.read_text())
        if is_first():
            print(f"\n{table(result, str(folder))}\nalready finished; add force=true to run it again")
        return result
    if not is_first():
        logging.getLogger("rwkd_lightning").setLevel(logging.WARNING)  # the first process tells
    stop = Stop()
    with stop.listening(), memory_told(), writing(folder, "runs_dir"), only_one(folder):
        values.check(config)
        return stages_of(config.task.system)(config, folder, stop, force)


def stages_of(system: str) -> Stages:
    """The stages of one system, imported only when it is the one: config, folder, stop, force to metrics.

    Raises:
        UserError: for a system that there is not.
    """
    if system == "text":
        from rwkd_lightning.pipeline.text import carry_out as of_text

        return of_text
    if system == "topics":
        from rwkd_lightning.pipeline.topics import carry_out as of_topics

        return of_topics
    raise UserError(f"task.system={system!r} is not known; known are text and topics")


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
