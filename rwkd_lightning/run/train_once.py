"""A teacher is trained once for all runs that want the same one."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rwkd_lightning.data.resumable import ResumableDataModule
from rwkd_lightning.run.fit import fit
from rwkd_lightning.run.processes import alone
from rwkd_lightning.run.system import Run, Teacher
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.utils.model_files import size

log = logging.getLogger(__name__)
Fit = Callable[[DistillationModule, ResumableDataModule, Mapping[str, Any]], None]
"""Trains a module on loaders with options for ``lightning.Trainer``, resuming where an interrupted training left
off.
"""


def train_once(
    run: Run, kind: str, key: Mapping[str, Any], train: Callable[[Path, Fit], None], about: str, needed_bytes: int
) -> Teacher:
    """The teacher for this key: from the cache, or trained now.

    Args:
        run: the run that wants it.
        kind: of the cached thing, for its folder.
        key: everything that its bytes depend on.
        train: trains with the function that it is given, and writes the teacher to the folder.
        about: for whoever lists the cache.
        needed_bytes: on disk, while it is trained.

    Raises:
        UserError: if the cache cannot be written, and as ``train`` does.
    """
    if not run.store.has(kind, key):
        run.store.check_writable(needed_bytes)
    seconds: list[float] = []

    def build(folder: Path) -> None:
        unfinished = run.store.path(kind, key).with_suffix(".part")

        def fitted(module: DistillationModule, loaders: ResumableDataModule, options: Mapping[str, Any]) -> None:
            took = fit(
                module,
                loaders,
                unfinished,
                {**alone(run.options), **options},
                description="teacher",
                stop=run.stop,
                intervals=run.intervals,
            )
            seconds.append(took.train_seconds)

        log.info("training the teacher (kept in %s)", run.store.path(kind, key))
        train(folder, fitted)
        shutil.rmtree(unfinished, ignore_errors=True)

    folder = run.store.get(kind, key, build, about=about)
    return Teacher(folder, size(folder), seconds[0] if seconds else None)
