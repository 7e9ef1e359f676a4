"""The interface that a system fills in: one kind of model with its data, teacher, evaluation and files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from rwkd_lightning.audit.rows import Audited
from rwkd_lightning.cache.store import Store
from rwkd_lightning.data.resumable import ResumableDataModule
from rwkd_lightning.export.shipped import Shipment
from rwkd_lightning.run.inputs import Inputs
from rwkd_lightning.run.signals import Stop
from rwkd_lightning.terms import Term
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting import Weighting


@dataclass(frozen=True)
class Run:
    """The surroundings of one run."""

    folder: Path
    store: Store
    options: dict[str, Any]
    """For ``lightning.Trainer``."""
    stop: Stop
    device: torch.device
    """Where models compute outside a training."""
    intervals: Mapping[str, Any]
    """Between two checkpoints: ``minutes`` and ``steps``."""


@dataclass(frozen=True)
class Teacher:
    """A trained teacher: in the cache, or the user's own."""

    folder: Path
    bytes: int
    """Of its weights on disk."""
    train_seconds: float | None = None
    """None where it was not trained now."""
    labels: list[str] | None = None
    """The meaning of its outputs, where the user states it."""


@dataclass
class Evaluation:
    """The scores of teacher and student, and the pieces that their cost is measured with."""

    task: str
    """For the title of the table."""
    metric: str
    """The score that this task is known by."""
    meta: dict[str, float]
    """The student's score on the meta split, by the name of `System.monitor`."""
    scores: dict[str, dict[str, dict[str, Any]]]
    """Of ``student`` and ``teacher``: by split, then by metric."""
    teacher: nn.Module | None
    """None where there is no model of it, only outputs."""
    batches: list[tuple[dict[str, Tensor], dict[str, Tensor]]]
    """The same samples as the teacher and as the student read them, to time both."""
    more: dict[str, Any] = field(default_factory=dict)
    """Written to ``metrics.json`` as it is."""
    rows: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """Of an evaluation split: columns of what ``metric`` is made of, for ``predictions.parquet``. One of them is
    ``idx`` ``(N,)``; the others are those of a kind in `rwkd_lightning.report.rows`. Empty for a metric that is no
    figure of rows.
    """


class System(ABC):
    """One kind of model, as `runner.run` drives it. The methods are called in the order in which they stand here.

    ``task.system._target_`` names the class; it is made with the run's whole config. What a stage finds is kept on the
    object for the later ones. Each method raises `UserError` for a mistake of the user's, as early as it can be known:
    `read` before any model is loaded, `prepare` before the teacher is trained.
    """

    files: Sequence[str] = ()
    """Files and folders that this system alone leaves in a run's folder."""
    less_memory = "lower data.batch_size"
    """A way to need less memory beyond those of every system, for messages."""

    def __init__(self, config: DictConfig) -> None:
        self.config = config

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the task, for messages. It may be known only after `read`."""

    @property
    @abstractmethod
    def provides(self) -> AbstractSet[str]:
        """Kinds of samples that loss terms may need: ``classes``, ``numbers`` or others; known before `read`."""

    @property
    @abstractmethod
    def monitor(self) -> str:
        """The metric on the meta split that chooses a checkpoint; larger is better."""

    @property
    def monitors(self) -> Sequence[str]:
        """All metrics on the meta split, which callbacks may watch."""
        return (self.monitor,)

    @abstractmethod
    def read(self) -> None:
        """Read the data."""

    @abstractmethod
    def inputs(self) -> Inputs:
        """The data and models that the config names, by content."""

    @abstractmethod
    def prepare(self, run: Run, terms: Sequence[Term], weighting: Weighting) -> nn.Module:
        """Make the untrained student, and check with it what can be checked before the teacher is trained.

        Its random numbers begin with the run's seed; whatever else is drawn here must be drawn aside
        (``torch.random.fork_rng``).
        """

    @abstractmethod
    def teacher(self, run: Run) -> tuple[Teacher | None, Any]:
        """The teacher, trained now or before, and anything JSON can write that changes with its bytes.

        None for a teacher that is no model: its outputs come with the data.
        """

    def student(self, run: Run, terms: Sequence[Term]) -> nn.Module | None:
        """The student, where it can only be made when the teacher is there; None: the one that `prepare` has made."""
        return None

    @abstractmethod
    def loaders(self, run: Run, student: nn.Module, terms: Sequence[Term]) -> ResumableDataModule:
        """The batches, with what the teacher says of their samples; a teacher that runs along is given to `module`."""

    @abstractmethod
    def module(
        self, student: nn.Module, terms: Sequence[Term], weighting: Weighting, **options: Any
    ) -> DistillationModule:
        """The LightningModule, with the teacher that runs along and the metrics of the meta split."""

    @abstractmethod
    def evaluate(self, run: Run, student: nn.Module, device: torch.device) -> Evaluation:
        """Score teacher and student."""

    @abstractmethod
    def export(self, folder: Path, student: nn.Module, result: Mapping[str, Any]) -> int:
        """Write the student to ``folder/student``, and this system's own files; returns the bytes of its weights."""

    def columns(self) -> dict[str, Tensor]:
        """Columns of ``weights.parquet`` beside those of every run, ``(N,)`` each, by name."""
        return {}

    def words(self, rows: Sequence[int]) -> list[dict[str, str]]:
        """The columns that ``report.html`` shows of these training rows, as text and label; none by default."""
        return []

    def findings(self, columns: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
        """How well the columns of ``weights.parquet`` find what was corrupted on purpose; empty where nothing was."""
        return {}

    def pages(self, columns: Mapping[str, Tensor]) -> Mapping[str, str]:
        """Further HTML pages for the run's folder, by file name, from the columns of ``weights.parquet``."""
        return {}

    def lines(self, metrics: Mapping[str, Any]) -> list[str]:
        """Lines below the table of results."""
        return []

    def audit(self, run: Run, table: Mapping[str, Sequence[Any]], folds: int) -> Audited:
        """The training rows of a finished run, for ``rwkd_lightning.audit``; called after `read`.

        Args:
            table: the columns of its ``weights.parquet``.
            folds: of out-of-fold scores; 0: none.

        Raises:
            UserError: where the rows of this system are not audited.
        """
        raise UserError(f"rows of {type(self).__name__} cannot be audited; {run.folder / 'weights.parquet'} has them")

    def shipment(self, folder: Path) -> Shipment:
        """The student of the finished run in ``folder``, for ``rwkd_lightning.export``; called after `read`.

        Raises:
            UserError: where the students of this system are not exported.
        """
        raise UserError(f"students of {type(self).__name__} cannot be exported; their folder is {folder / 'student'}")
