"""Chunks of a table to a file: Parquet, CSV, TSV or JSON lines, written aside and moved into place at the end."""

from __future__ import annotations

import csv
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rwkd_lightning.predict.reader import DELIMITERS, KINDS
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.paths import replaced

Write = Callable[[pa.Table], None]
Into = Callable[[Path, pa.Schema, Sequence[str]], AbstractContextManager[Write]]
"""From a file to write, the schema of the tables, and the names of those of its columns that the model reads or answers
with, to a function that appends a table.
"""


def check(path: Path, force: bool) -> None:
    """Raise UserError if no such file may be written."""
    if path.exists() and not path.is_file():
        raise UserError(f"--out={str(path)!r} is no file; give another name")
    if path.exists() and not force:
        raise UserError(f"--out={str(path)!r} exists; add --force to replace it, or give another file")


def table(path: Path) -> Into:
    """The writer of tables to a file of this name, with all their columns.

    Raises:
        UserError: for a name of another kind.
    """
    if path.suffix not in KINDS:
        raise UserError(f"--out={str(path)!r} is none of {', '.join(KINDS)}; give a file of such a name")
    return parquet if path.suffix == ".parquet" else functools.partial(lines, path.suffix)


@contextmanager
def writing_table(path: Path, into: Into, schema: pa.Schema, names: Sequence[str]) -> Iterator[Write]:
    """A function that appends a table of this schema; ``path`` is there when all went well, and not before."""
    with replaced(path) as part, into(part, schema, names) as write:
        yield write


@contextmanager
def parquet(part: Path, schema: pa.Schema, names: Sequence[str]) -> Iterator[Write]:
    """For Parquet."""
    from pyarrow.parquet import ParquetWriter

    with ParquetWriter(part, schema) as writer:
        yield writer.write_table


@contextmanager
def lines(suffix: str, part: Path, schema: pa.Schema, names: Sequence[str]) -> Iterator[Write]:
    """For text."""
    with part.open("w", encoding="utf-8", newline="") as file:
        if suffix == ".jsonl":
            yield lambda table: file.writelines(
                f"{in_json(dict(zip(schema.names, row, strict=True)))}\n" for row in rows_of(table)
            )
        else:
            writer = csv.writer(file, delimiter=DELIMITERS[suffix], lineterminator="\n")
            writer.writerow(schema.names)
            yield lambda table: writer.writerows([cell(value) for value in row] for row in rows_of(table))


def rows_of(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    """The values of each row; a float32 with the digits that it has, and not those of the float64 that it becomes."""
    singles = (pa.float32(), pa.list_(pa.float32()))
    columns = (short(column.to_pylist()) if column.type in singles else column.to_pylist() for column in table.columns)
    return zip(*columns, strict=True)


def short(values: Sequence[Any]) -> list[Any]:
    """Numbers of few digits that become the same float32 again; lists of them."""
    return [
        short(value) if isinstance(value, list) else None if value is None else float(str(np.float32(value)))
        for value in values
    ]


def in_json(value: Any) -> str:
    """A value as JSON; what JSON does not know (a date) as text."""
    return json.dumps(value, ensure_ascii=False, default=str)


def cell(value: Any) -> Any:
    """A value in a table of text: a list or an object as JSON, nothing for null."""
    return in_json(value) if isinstance(value, list | dict) else value
