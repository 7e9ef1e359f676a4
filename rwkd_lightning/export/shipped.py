"""The interface that a system fills in so that its finished students can be exported, and asked for new rows."""

from __future__ import annotations

import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from torch import Tensor, nn

from rwkd_lightning.predict import reader, writer
from rwkd_lightning.predict.reader import Source
from rwkd_lightning.predict.writer import Into
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.paths import place

FILE = "shipped.json"
"""In a student's folder: its class by name (``class``), and what else that class needs to know."""
Columns = Sequence[Sequence[Any]]
"""Values of N rows, one list of N per column that a model reads: texts, or whatever else its class says."""


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
    axes: Mapping[int, str] = {0: "batch"}
    """Those axes of that tensor that have not always one size, ``batch`` or ``length`` each."""
    columns: Sequence[str]
    """Names of the columns that it was trained on."""
    reads: str = "text"
    """The name of the values of a column, for messages."""
    parts: str = "texts"
    """The name of the things that have an answer each, for messages."""
    example: Any = "a"
    """A value that it has an answer to, whatever column it stands in."""

    def __init__(self, folder: Path, described: Mapping[str, Any]) -> None:
        self.folder = folder

    @abstractmethod
    def network(self) -> nn.Module:
        """The network in evaluation mode: the tensors `inputs` in, ``(B, C)`` or, with an axis ``length``,
        ``(B, T, C)`` out.
        """

    @abstractmethod
    def batch(self, columns: Columns) -> dict[str, Tensor]:
        """The tensors `inputs` for B rows, and what `gathered` reads beside them."""

    def counts(self, columns: Columns) -> list[int]:
        """How many rows of outputs each row has: one, or one for each part that has an answer of its own."""
        return [1] * len(columns[0])

    def gathered(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Outputs ``(M, C)``, those of each row after those of the row before, M the sum of `counts`; from the
        network's.

        NaN throughout for a part that is not read.

        Raises:
            UserError: for one that is read and has no finite answer.
        """
        return finite(outputs)

    @abstractmethod
    def answers(self, outputs: Tensor, columns: Columns) -> dict[str, list[Any]]:
        """Columns of N values by name: texts, numbers, or lists of them; for the outputs ``(M, C)`` of these rows."""

    @abstractmethod
    def copy(self, folder: Path) -> None:
        """Write the model into an empty folder, as its users load it."""

    @staticmethod
    def fits(kind: pa.DataType) -> bool:
        """Whether it can read a column of this type."""
        return reader.is_text(kind)

    @staticmethod
    def blank(value: Any) -> bool:
        """Whether there is nothing to read in a value, which is not null."""
        return not value.strip()

    @classmethod
    def source(cls, path: Path, encoding: str, described: Mapping[str, Any]) -> Source:
        """A file with rows to be asked for: a table, or of a kind that its class knows beside.

        Raises:
            UserError: for a file of another kind, or none.
        """
        return reader.TableFile(path, encoding)

    @classmethod
    def target(cls, path: Path, source: Source) -> Into:
        """The writer of the answers to a file of this name.

        Raises:
            UserError: for a name of another kind.
        """
        return writer.table(path)


def finite(outputs: Tensor) -> Tensor:
    """The outputs; UserError for one that is no number."""
    if not bool(outputs.isfinite().all()):
        raise UserError(
            "the student's answer is not finite; its weights (or their ONNX file) are broken, export or train it again"
        )
    return outputs


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
    """Their values, as the student reads them."""
    metric: str
    score: Callable[[Tensor], float]
    """Of outputs ``(M, C)`` for these rows, by that metric."""
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
    """The model of a folder with ``shipped.json``.

    Raises:
        UserError: as `kind_of` and the class raise.
    """
    kind, described = kind_of(folder)
    return kind(folder, described)


def kind_of(folder: Path) -> tuple[type[Shipped], dict[str, Any]]:
    """The class that ``shipped.json`` of a folder names, and its content; no class but a `Shipped` is taken.

    Raises:
        UserError: if the file names none.
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
    return kind, described
