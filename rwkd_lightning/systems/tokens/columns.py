"""Sentences as columns, in chunks: read from a file of any size, with tags or without, and written with answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from rwkd_lightning.predict.reader import Chunk, Source, check_file, decodable, opened
from rwkd_lightning.predict.writer import Write, rows_of
from rwkd_lightning.systems.tokens.reader import sentences
from rwkd_lightning.utils.errors import UserError

TABLES = (".csv", ".json", ".jsonl", ".parquet")
"""Endings of files that are no columns."""
UNKNOWN = "_"
"""In a column, what is not there, as in CoNLL-U."""


class ColumnFile:
    """A word a line with its columns, as a `Source`: a row is a sentence, and each of its columns a list of texts.

    Args:
        token_column: of the words, from 0; negative ones count from the last.
        name: of that column; others are called ``column_0``, ``column_1``, ... by their places.

    Raises:
        UserError: for no file, or no encoding.
    """

    unit = "line"

    def __init__(self, path: Path, encoding: str, token_column: int, name: str) -> None:
        check_file(path, encoding)
        self.path, self.encoding, self.token_column, self.name = path, encoding, token_column, name
        self.rows, self.schema = 0, pa.schema([])

    def check(self, size: int) -> Iterator[Chunk]:
        self.rows = 0
        for chunk in self.chunks(size):
            self.rows, self.schema = self.rows + len(chunk.lines), chunk.table.schema
            yield chunk
        if not self.rows:
            raise UserError(f"{str(self.path)!r} has no sentence; give one or more")

    def chunks(self, size: int) -> Iterator[Chunk]:
        part: list[list[tuple[int, list[str]]]] = []
        with decodable(self.path, self.encoding), opened(self.path, self.encoding, "\n") as file:
            for words in sentences(file, self.path, repr(str(self.path))):
                part.append(words)
                if len(part) == size:
                    yield self.chunk(part)
                    part = []
        if part:
            yield self.chunk(part)

    def chunk(self, part: Sequence[Sequence[tuple[int, list[str]]]]) -> Chunk:
        """Some sentences: of each the numbers and columns of its lines."""
        width = len(part[0][0][1])
        names = [f"column_{place}" for place in range(width)]
        if -width <= self.token_column < width:
            names[self.token_column] = self.name
        columns = [
            pa.array([[cells[place].strip() for _, cells in words] for words in part], pa.list_(pa.string()))
            for place in range(width)
        ]
        return Chunk(pa.table(columns, names=names), [words[0][0] for words in part])


@contextmanager
def writing(source: Source, part: Path, schema: pa.Schema, names: Sequence[str]) -> Iterator[Write]:
    """A function that appends tables of sentences as columns: those of a source of columns and the answers; of another
    source its words and the answers.
    """
    kept = schema.names if isinstance(source, ColumnFile) else list(names)
    words = kept.index(names[0])
    with part.open("w", encoding="utf-8", newline="") as file:

        def write(table: pa.Table) -> None:
            for row in rows_of(table.select(kept)):
                count = len(row[words] or ())
                if count:
                    columns = [[None] * count if values is None else values for values in row]
                    file.writelines("\t".join(map(cell, line)) + "\n" for line in zip(*columns, strict=True))
                    file.write("\n")

        yield write


def cell(value: Any) -> str:
    """A value between tabs; UserError for a text that would be two."""
    text = UNKNOWN if value is None or value == "" else str(value)
    if any(mark in text for mark in "\t\r\n"):
        raise UserError(f"{text!r} holds a tab or a line break, and a column cannot; give --out a name in .jsonl")
    return text
