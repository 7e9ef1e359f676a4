"""Tables of any size in chunks: CSV, TSV, JSON lines, Parquet. Each row knows its line in the file."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO

import pyarrow as pa

from rwkd_lightning.utils.errors import UserError

DELIMITERS = {".csv": ",", ".tsv": "\t"}
KINDS = (*DELIMITERS, ".jsonl", ".parquet")
LONGEST_FIELD = 1 << 30


@dataclass
class Chunk:
    """Some rows of a file."""

    table: pa.Table
    lines: list[int]
    """Of each row, the line in which it starts, from 1; in Parquet its number, from 1."""


class Source(Protocol):
    """A file whose rows are read twice: once to check them and to learn their columns, then to work on them."""

    path: Path
    rows: int
    """Known after `check`."""
    schema: pa.Schema
    """Known after `check`."""

    @property
    def unit(self) -> str:
        """The unit of `Chunk.lines`, for messages."""

    def check(self, size: int) -> Iterator[Chunk]:
        """Read all chunks of so many rows once; UserError that names the line of a row that cannot be read."""

    def chunks(self, size: int) -> Iterator[Chunk]:
        """All rows, after `check`; every table has the same schema."""


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds text."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind  # categories of pandas
    return str(kind) in ("string", "large_string", "string_view")


def check_file(path: Path, encoding: str) -> None:
    """Raise UserError for a path to no file, and for an encoding that Python does not know."""
    if not path.is_file():
        raise UserError(f"there is no file {str(path)!r}")
    try:
        "".encode(encoding)
    except LookupError as error:
        raise UserError(f"there is no encoding {encoding!r}; give one as utf-8, latin-1 or cp1252") from error


def opened(path: Path, encoding: str, newline: str) -> TextIO:
    """A file of text; a mark at the start of UTF-8 is no part of it."""
    utf8 = codecs.lookup(encoding).name == "utf-8"
    return path.open(encoding="utf-8-sig" if utf8 else encoding, newline=newline)


@contextmanager
def decodable(path: Path, encoding: str) -> Iterator[None]:
    """Turn bytes of another encoding into a UserError that names their line."""
    try:
        yield
    except UnicodeError as error:
        raise UserError(
            f"{str(path)!r} is not {encoding}{undecodable(path, encoding)}; say which encoding it is with --encoding, "
            "as latin-1 or cp1252"
        ) from error


def undecodable(path: Path, encoding: str) -> str:
    """The first line that is not of this encoding, in words."""
    with path.open("rb") as file:
        for line, text in enumerate(file, 1):
            try:
                text.decode(encoding)
            except UnicodeDecodeError as error:
                return f" in line {line} (bytes {text[error.start : error.end]!r})"
            except UnicodeError:  # of UTF-16, whose lines end otherwise
                break
    return ""


@dataclass
class TableFile:
    """A table that is read twice: once to check it and to learn its columns, then to work on it.

    The values of CSV and TSV stay text, as they are written; those of JSON and Parquet keep their types.

    Raises:
        UserError: for a file of another kind, or none.
    """

    path: Path
    encoding: str = "utf-8"
    rows: int = field(default=0, init=False)
    """Known after `check`."""
    schema: pa.Schema = field(default_factory=lambda: pa.schema([]), init=False)
    """Known after `check`."""

    def __post_init__(self) -> None:
        if self.path.suffix not in KINDS:
            raise UserError(f"{str(self.path)!r} is none of {', '.join(KINDS)}; give a file of such a name")
        check_file(self.path, self.encoding)

    @property
    def unit(self) -> str:
        """The unit of `Chunk.lines`, for messages."""
        return "row" if self.path.suffix == ".parquet" else "line"

    def check(self, size: int) -> Iterator[Chunk]:
        """Read all chunks once, which finds every row that cannot be read; then ``rows`` and ``schema`` are known.

        Raises:
            UserError: that names the line of such a row.
        """
        self.rows, self.schema = 0, pa.schema([])
        for chunk in self._chunks(size):
            try:
                self.schema = pa.unify_schemas([self.schema, chunk.table.schema], promote_options="permissive")
            except pa.ArrowException as error:
                raise self._mixed(chunk.lines, error) from error
            self.rows += len(chunk.lines)
            yield chunk
        if not self.rows:
            raise UserError(f"{str(self.path)!r} has no rows; give one or more")

    def chunks(self, size: int) -> Iterator[Chunk]:
        """All rows, after `check`; every table has the same schema."""
        for chunk in self._chunks(size):
            names = chunk.table.column_names
            columns = [
                chunk.table[column.name].cast(column.type)
                if column.name in names
                else pa.nulls(len(chunk.lines), column.type)
                for column in self.schema
            ]
            yield Chunk(pa.table(columns, schema=self.schema), chunk.lines)

    def _chunks(self, size: int) -> Iterator[Chunk]:
        with decodable(self.path, self.encoding):
            if self.path.suffix == ".parquet":
                yield from self._parquet(size)
            elif self.path.suffix == ".jsonl":
                yield from self._json_lines(size)
            else:
                yield from self._delimited(size)

    def _delimited(self, size: int) -> Iterator[Chunk]:
        csv.field_size_limit(LONGEST_FIELD)
        with opened(self.path, self.encoding, "") as file:
            reader = csv.reader(file, delimiter=DELIMITERS[self.path.suffix], strict=True)
            names = self._row(reader)
            if names is None:
                return
            self._check_header(names)
            rows, lines, line = [], [], reader.line_num + 1
            while (row := self._row(reader)) is not None:
                if row:  # csv gives [] for an empty line
                    if len(row) != len(names):
                        raise UserError(
                            f"{str(self.path)!r} has {len(row)} fields in line {line} and {len(names)} in its header; "
                            "correct that line, or put quotes around a field that holds the delimiter"
                        )
                    rows.append(row)
                    lines.append(line)
                line = reader.line_num + 1
                if len(rows) == size:
                    yield self._text(names, rows, lines)
                    rows, lines = [], []
            if rows:
                yield self._text(names, rows, lines)

    def _row(self, reader: Any) -> list[str] | None:
        try:
            row: list[str] | None = next(reader, None)
        except csv.Error as error:
            raise UserError(f"{str(self.path)!r} line {reader.line_num} is no row of a table ({error})") from error
        return row

    def _check_header(self, names: list[str]) -> None:
        for name in names:
            if not name.strip() or names.count(name) > 1:
                raise UserError(
                    f"{str(self.path)!r} names the columns {names} in its first line; {name!r} is empty or named "
                    "twice, name each column once"
                )

    def _text(self, names: list[str], rows: list[list[str]], lines: list[int]) -> Chunk:
        columns = [pa.array(values, pa.string()) for values in zip(*rows, strict=True)]
        return Chunk(pa.table(columns, names=names), lines)

    def _json_lines(self, size: int) -> Iterator[Chunk]:
        rows: list[dict[str, Any]] = []
        lines: list[int] = []
        with opened(self.path, self.encoding, "\n") as file:
            for line, text in enumerate(file, 1):
                if not text.strip():
                    continue
                try:
                    row = json.loads(text)
                    if not isinstance(row, dict):
                        raise ValueError(f"a {type(row).__name__}, and no object")
                except (ValueError, RecursionError) as error:
                    raise UserError(f"{str(self.path)!r} line {line} is no JSON object ({error})") from error
                rows.append(row)
                lines.append(line)
                if len(rows) == size:
                    yield self._objects(rows, lines)
                    rows, lines = [], []
        if rows:
            yield self._objects(rows, lines)

    def _objects(self, rows: list[dict[str, Any]], lines: list[int]) -> Chunk:
        names = list(dict.fromkeys(name for row in rows for name in row))
        try:
            return Chunk(pa.table({name: pa.array([row.get(name) for row in rows]) for name in names}), lines)
        except (pa.ArrowException, OverflowError) as error:
            raise self._mixed(lines, error) from error

    def _mixed(self, lines: list[int], error: Exception) -> UserError:
        reason = " ".join(str(error).split())[:160]
        return UserError(
            f"{str(self.path)!r}, lines {lines[0]} to {lines[-1]}: a field has values of several types ({reason}); "
            "give each field one type"
        )

    def _parquet(self, size: int) -> Iterator[Chunk]:
        import pyarrow.parquet as parquet

        start = 1
        try:
            with parquet.ParquetFile(self.path) as file:
                for batch in file.iter_batches(batch_size=size):
                    if len(batch):
                        yield Chunk(pa.Table.from_batches([batch]), list(range(start, start + len(batch))))
                        start += len(batch)
        except (pa.ArrowException, OSError) as error:
            raise UserError(
                f"{str(self.path)!r} cannot be read as Parquet ({' '.join(str(error).split())[:160]})"
            ) from error
