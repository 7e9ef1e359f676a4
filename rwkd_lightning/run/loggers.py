"""Lightning's loggers beside ``log/metrics.csv``: they write into the run's folder, also after an interruption."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import loggers as theirs
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf

from rwkd_lightning.run.create import Recipe
from rwkd_lightning.run.processes import is_first
from rwkd_lightning.utils.errors import UserError

KEPT = Path("log") / "logger.json"
"""In the run's folder: which record the logger writes, for the process that resumes the run."""


class MLFlowLogger(theirs.MLFlowLogger):
    """Lightning's logger, for the folder of files in which MLflow keeps a run without a server.

    There no metric can be called as the folder of others is (``loss`` and ``loss/kd``): slashes become dots.
    """

    def __init__(self, run_id: str | None = None, **options: Any) -> None:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 wants a database otherwise
        super().__init__(run_id=run_id, **options)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics({name.replace("/", "."): value for name, value in metrics.items()}, step)


def logger_of(config: DictConfig, folder: Path) -> Logger | None:
    """The logger of the config; None where ``log/metrics.csv`` is enough. It writes nothing yet.

    Args:
        folder: of the run; a relative ``logger.save_dir`` lies in it.

    Raises:
        UserError: for one that cannot be made, also because its package is not installed.
    """
    config = copy.deepcopy(config)
    node = config.logger
    if not node:
        return None
    if node.get("save_dir") is not None:
        node.save_dir = os.fspath(folder / node.save_dir)
    make = Recipe(config, "logger", Logger)  # type: ignore[type-abstract]
    before = version(folder, make.target)
    name = next((name for name in ("run_id", "version") if make.lacks(name)), None)
    return make() if before is None or name is None else make(**{name: before})


def version(folder: Path, target: str) -> Any:
    """The record that this class of logger has begun in the folder; None: none yet."""
    file = folder / KEPT
    kept: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return kept.get(target)


def begin(logger: Logger, config: DictConfig, folder: Path) -> None:
    """Let the first process open the record, and note in it what the run depends on, unless it goes on with one."""
    target = str(config.logger._target_)
    if not is_first() or version(folder, target) is not None:
        return
    settings: Any = OmegaConf.to_container(config, resolve=True)
    try:
        getattr(logger, "experiment", None)  # some have a version from here on
        logger.log_hyperparams(settings)
    except Exception as error:  # of a server, of a disk, of a package
        raise UserError(
            f"logger: {target} cannot begin ({' '.join(str(error).split())[:300]}); fix it, or leave logger= out"
        ) from error
    if logger.version is not None:
        (folder / KEPT).parent.mkdir(parents=True, exist_ok=True)
        (folder / KEPT).write_text(json.dumps({target: logger.version}))


def end(logger: Logger) -> None:
    """Close a record that a later run of a sweep would go on writing into, as that of W&B."""
    if is_first():
        finish = getattr(getattr(logger, "experiment", None), "finish", None)
        if callable(finish):
            finish()
