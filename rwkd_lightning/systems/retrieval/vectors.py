"""A searchable collection on disk: parts with the vectors of some documents each, compared exactly."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rwkd_lightning.utils.errors import UserError

SUMMARY = "index.json"


class Index:
    """Identifiers and unit vectors ``(D, d)``, in float16 on disk and in memory.

    Args:
        folder: with parts that `write_part` wrote, and the summary that `finish` wrote.

    Raises:
        UserError: if there is none, or it is not whole.
    """

    def __init__(self, folder: Path) -> None:
        summary = read_summary(folder)
        if summary is None or "documents" not in summary:
            raise UserError(f"{folder} holds no finished index; give RUN/index, or build one: {COMMAND}")
        self.student: str = summary["student"]
        self.ids: list[str] = []
        parts: list[Tensor] = []
        try:
            for number in range(summary["parts"]):
                names, vectors = read_part(folder, number)
                self.ids += names
                parts.append(vectors)
        except Exception as error:  # SafetensorError is no subclass of anything that says so
            reason = " ".join(str(error).split())[:160]
            raise UserError(f"{folder}: part {number} cannot be read ({reason}); build the index again") from error
        if not len(self.ids) == sum(map(len, parts)) == summary["documents"]:
            raise UserError(f"{folder} has not the {summary['documents']} documents that it names; build it again")
        self.parts = parts

    def search(self, queries: Tensor, top: int) -> list[list[tuple[str, float]]]:
        """The best documents of each query ``(Q, d)``, identifier and cosine, best first."""
        scores, places, start = queries.new_empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.long), 0
        for part in self.parts:
            found, at = (queries @ part.to(queries.dtype).T).topk(min(top, len(part)))
            scores, places = torch.cat([scores, found], 1), torch.cat([places, at + start], 1)
            scores, order = scores.topk(min(top, scores.shape[1]))
            places, start = places.gather(1, order), start + len(part)
        return [
            [(self.ids[place], score) for place, score in zip(row, values, strict=True)]
            for row, values in zip(places.tolist(), scores.tolist(), strict=True)
        ]


COMMAND = "python -m rwkd_lightning.systems.retrieval.index RUN CORPUS --to FOLDER"


def paths(folder: Path, number: int) -> tuple[Path, Path]:
    """The files of a part: identifiers and vectors."""
    return folder / f"ids-{number:05d}.jsonl", folder / f"vectors-{number:05d}.safetensors"


def write_part(folder: Path, number: int, ids: Sequence[str], vectors: Tensor) -> None:
    """Write the vectors ``(n, d)`` of a part; the identifiers, which make it count, come last and in one move."""
    names, values = paths(folder, number)
    save_file({"vectors": vectors.half().contiguous()}, aside(values))
    os.replace(aside(values), values)
    aside(names).write_text("".join(f"{json.dumps(name)}\n" for name in ids), encoding="utf-8")
    os.replace(aside(names), names)


def aside(file: Path) -> Path:
    """Where a file is written before it is moved."""
    return file.with_name(f".{file.name}.part")


def read_part(folder: Path, number: int) -> tuple[list[str], Tensor]:
    """Identifiers and vectors ``(n, d)`` of a part."""
    names, values = paths(folder, number)
    ids = [json.loads(line) for line in names.read_text(encoding="utf-8").splitlines()]
    return ids, load_file(values)["vectors"]


def parts_there(folder: Path) -> Iterator[int]:
    """The numbers of the first parts that are whole, without a gap."""
    number = 0
    while all(file.is_file() for file in paths(folder, number)):
        yield number
        number += 1


def read_summary(folder: Path) -> dict[str, Any] | None:
    """What the index is made of; None where there is nothing that says so."""
    try:
        found = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Note what the index is made of; with ``parts`` and ``documents`` it is finished."""
    aside(folder / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n")
    os.replace(aside(folder / SUMMARY), folder / SUMMARY)


def size(folder: Path) -> int:
    """Bytes of all its files."""
    return sum(file.stat().st_size for file in folder.iterdir())
