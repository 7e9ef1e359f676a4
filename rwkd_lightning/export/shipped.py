"""The interface that a system fills in so that its finished students can be exported, and asked for new rows."""

from __future__ import annotations

import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.paths import place

FILE = "shipped.json"
"""In a student's folder: its class by name (``class``), and what else that class needs to know."""
Columns = Sequence[Sequence[str]]
"""Texts of N rows, one list of N per column that a model reads."""


class Shipped(ABC):
    """A finished model: columns of a table in, columns of answers out. Made from its folder alone.

    Args:
        folder: that it lies in.
        described: the content of ``shipped.json``.

    Raises:
        UserError: if the folder holds no whole model.
    """

    inputs: Sequence[str]
    """Names of the tensors of `batch`, in the order in which `network` takes them; the first axis of each is the batch,
    the second one the length.
    """
    output: str
    """Name of the one tensor that `network` returns."""
    columns: Sequence[str]
    """Names of the columns that it was trained on."""

    def __init__(self, folder: Path, described: Mapping[str, Any]) -> None:
        self.folder = folder

    @abstractmethod
    def network(self) -> nn.Module:
        """The network in evaluation mode: the tensors `inputs` in, ``(B, C)`` out."""

    @abstractmethod
    def batch(self, columns: Columns) -> dict[str, Tensor]:
        """The tensors `inputs` for B rows, and what `gathered` reads beside them."""

    def gathered(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Outputs ``(B, C)`` of B rows, from the network's ``(B', C)`` where `batch` has made more rows of them."""
        return outputs

    @abstractmethod
    def answers(self, outputs: Tensor) -> dict[str, list[Any]]:
        """Columns of N values by name, for outputs ``(N, C)``."""

    @abstractmethod
    def copy(self, folder: Path) -> None:
        """Write the model into an empty folder, as its users load it."""


@dataclass(frozen=True)
class Card:
    """A system's part of a model card."""

    metadata: Mapping[str, Any]
    """Fields of the card's YAML, as ``pipeline_tag``."""
    task: str
    """What the model does, in a sentence or two."""
    data: str
    """The data that it was trained on."""
    use: str
    """How it is loaded; Markdown, ``{name}`` stands for the model's name or folder."""
    limits: Sequence[str] = ()
    """What it cannot do, one sentence each."""


@dataclass(frozen=True)
class Shipment:
    """A run's student with the real rows that an export is checked, scored and timed on."""

    student: Shipped
    split: str
    """The name of the rows' split."""
    columns: Columns
    """Their texts, as the student reads them."""
    metric: str
    score: Callable[[Tensor], float]
    """Of outputs ``(N, C)`` for these rows, by that metric."""
    card: Card
    teacher: Shipped | None = None
    """To be timed beside it; None where it is not at hand."""
    notes: Sequence[str] = field(default=())
    """Lines to print, as the reason why there is no teacher."""


def describe(folder: Path, kind: type[Shipped], **more: Any) -> None:
    """Write ``shipped.json`` of a student of this class."""
    text = json.dumps({"class": f"{kind.__module__}.{kind.__qualname__}", **more}, indent=1, ensure_ascii=False)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")


def folder_of(text: str) -> Path:
    """The folder of a student, from that of its run, of an export or its own.

    Raises:
        UserError: if it is none of them, or its run is not finished.
    """
    folder = place(text, "RUN")
    for inner in (folder / "student", folder):
        if (inner / FILE).is_file():
            return inner
    check_run(folder)
    raise UserError(
        f"{text!r} is a run without student/{FILE}: an earlier version made it, or its task's students cannot be "
        "shipped; export it first, and give the export's folder"
    )


def check_run(folder: Path) -> None:
    """Raise UserError if this is no folder of a run, or that of an unfinished one."""
    if not (folder / "config.yaml").is_file():
        raise UserError(
            f"{str(folder)!r} is no folder of a run{'' if folder.is_dir() else ' (there is no such folder)'}; give the "
            "one that `results in` names at the end of train.py"
        )
    if not (folder / "metrics.json").is_file() or not (folder / "student").is_dir():
        raise UserError(
            f"the run in {str(folder)!r} is not finished (it has no metrics.json or no student/); repeat its train.py "
            "command to go on with it"
        )


def load(folder: Path) -> Shipped:
    """The model of a folder with ``shipped.json``; only a class that is a `Shipped` is made.

    Raises:
        UserError: if the file names none, and as the class does.
    """
    try:
        described = dict(json.loads((folder / FILE).read_text(encoding="utf-8")))
        module, _, name = described["class"].rpartition(".")
        kind = getattr(importlib.import_module(module), name)
        if not (isinstance(kind, type) and issubclass(kind, Shipped)):
            raise TypeError(f"{described['class']} is no {Shipped.__name__}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise UserError(
            f"{folder / FILE} does not say how to read this student ({' '.join(str(error).split())[:160]}); export the "
            "run again"
        ) from error
    made: Shipped = kind(folder, described)
    return made
