"""Tables of a user's own: CSV, TSV, JSON lines and Parquet files, or a directory of files of one of these kinds."""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rwkd_lightning.data.table_hub import hub_rows, is_hub
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.paths import place

DELIMITERS = {".csv": ",", ".tsv": "\t"}
KINDS = (*DELIMITERS, ".jsonl", ".json", ".parquet")
LISTED = 20  # column names in a message


class Part(NamedTuple):
    """The rows of one file."""

    where: str
    """The file, as messages name it."""
    unit: str
    lines: Sequence[int]
    """The line (Parquet: the row) in which each of them starts, from 1."""


@dataclass
class Table:
    """Columns of N rows by name, and the files that they are from."""

    columns: dict[str, list[Any]]
    parts: list[Part]

    def __len__(self) -> int:
        return sum(len(part.lines) for part in self.parts)

    def at(self, row: int) -> str:
        """The place of a row, counted from 0, for messages: ``data.train='a.csv', line 3``."""
        for where, unit, lines in self.parts:
            if row < len(lines):
                return f"{where}, {unit} {lines[row]}"
            row -= len(lines)
        raise IndexError(row)


def read_table(
    path: str,
    wanted: Sequence[str],
    setting: str,
    encoding: str | None = None,
    delimiter: str | None = None,
    optional: Sequence[str] = (),
) -> Table:
    """Read the columns ``wanted`` of a file, or of all files of a directory in the order of their names.

    Args:
        path: of the file or directory; or ``hub:OWNER/NAME``, a dataset of the Hugging Face hub.
        setting: what named the path, for messages.
        encoding: of text files; None: UTF-8, or UTF-16 with a mark at its start.
        delimiter: of CSV and TSV files; None: a comma, or a tab in a .tsv.
        optional: those of ``wanted`` that a file may lack; their values are None there.

    Raises:
        UserError: for a path, a column, a row or a byte that cannot be read; file and line are named.
    """
    table = Table({name: [] for name in wanted}, [])
    for file in [None] if is_hub(path) else files_of(place(path, setting), setting):
        where = f"{setting}={str(file or path)!r}"
        if file is None:
            rows = hub_rows(path, wanted, setting, optional)
        elif file.suffix == ".parquet":
            rows = parquet(file, wanted, where, optional)
        else:
            text = decoded(file, encoding, where)
            if file.suffix in DELIMITERS:
                rows = separated(text, wanted, where, delimiter or DELIMITERS[file.suffix], optional)
            else:
                rows = objects(text, wanted, where, optional)
        lines = []
        for line, values in rows:
            lines.append(line)
            for name, value in zip(wanted, values, strict=True):
                table.columns[name].append(value)
        table.parts.append(Part(where, "line" if file is not None and file.suffix != ".parquet" else "row", lines))
    if not len(table):
        raise UserError(f"{setting}={path!r} has no rows; give a file with some")
    return table


def files_of(path: Path, setting: str) -> list[Path]:
    """The file itself, or the files of a directory, all of one kind."""
    kinds = ", ".join(KINDS)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith((".", "_")))
        found = {file.suffix for file in files}
        if len(found) != 1 or not found <= set(KINDS):
            names = ", ".join(file.name for file in files[:5]) or "nothing"
            raise UserError(f"{setting}={str(path)!r} holds {names}; give a directory of files of one kind: {kinds}")
        return files
    if not path.exists():
        near = difflib.get_close_matches(path.name, [file.name for file in path.parent.glob("*")], 1)
        raise UserError(
            f"{setting}={str(path)!r} is not there; "
            f"{f'did you mean {path.parent / near[0]}?' if near else 'give a file or a directory'}"
        )
    if path.suffix not in KINDS:
        raise UserError(f"{setting}={str(path)!r} ends in none of {kinds}; rename it, or convert it to one of them")
    return [path]


def decoded(file: Path, encoding: str | None, where: str) -> str:
    """The text of a file.

    Raises:
        UserError: for bytes that are not of this encoding, and for a NUL.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{where} cannot be read ({error.strerror}); give a file of text") from error
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode(encoding or ("utf-16" if utf16 else "utf-8")).removeprefix("\ufeff")
    except LookupError:
        raise UserError(
            f"data.encoding={encoding!r} is not known to Python; give utf-8, latin-1, cp1252, ..."
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where} is not {(encoding or 'UTF-8').upper()} in line {content.count(10, 0, error.start) + 1}; "
            "set data.encoding=... to what it is (often cp1252, or latin-1)"
        ) from error
    if (nul := text.find("\0")) >= 0:
        raise UserError(
            f"{where} has a NUL in line {text.count(chr(10), 0, nul) + 1}; give text (data.encoding=utf-16 without a "
            "mark at its start: utf-16-le)"
        )
    return text


def separated(
    text: str, wanted: Sequence[str], where: str, delimiter: str, optional: Sequence[str] = ()
) -> Iterator[tuple[int, list[Any]]]:
    """Line and values of each row of a CSV file with a header; blank lines are left out."""
    # strict, and not pandas: that takes the first column for an index where every row has one field more than the
    # header, and fills rows that have fewer
    limit = csv.field_size_limit(max(len(text), 1))  # a text may be a book
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next((fields for fields in rows if fields), [])]
        if len(header) == 1 and not set(wanted) <= {*header}:
            other = next((mark for mark in ";\t|," if mark != delimiter and mark in header[0]), None)
            if other is not None:
                raise UserError(
                    f"{where} has no {delimiter!r} in its header {header[0][:80]!r}; if {other!r} separates its "
                    f"columns, set 'data.delimiter=\"{other}\"'"
                )
        absent = {name for name in optional if name not in header}
        places = [None if name in absent else column(header, name, where) for name in wanted]
        start = rows.line_num + 1
        for fields in rows:
            if fields and len(fields) != len(header):
                raise UserError(
                    f"{where} has {len(fields)} fields in line {start}, its header {len(header)}; put a text that "
                    "holds the delimiter or a line break in quotes"
                )
            if fields:
                yield start, [None if place is None else fields[place] for place in places]
            start = rows.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{where} is not a readable table ({error} in line {rows.line_num}); look at the quotes there"
        ) from error
    finally:
        csv.field_size_limit(limit)


def objects(
    text: str, wanted: Sequence[str], where: str, optional: Sequence[str] = ()
) -> Iterator[tuple[int, list[Any]]]:
    """Line and values of each JSON object, one per line; a key that a row lacks is None where another row has it."""
    seen: set[str] = set()
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            raise UserError(f"{where} has no JSON in line {number} ({reason}); write one object per line") from error
        if not isinstance(row, dict):
            raise UserError(f"{where} has a {type(row).__name__} in line {number}; write one object per line")
        seen |= row.keys()
        yield number, [row.get(name) for name in wanted]
    for name in wanted if seen else ():
        if name not in optional:
            column(sorted(seen), name, where)


def parquet(
    file: Path, wanted: Sequence[str], where: str, optional: Sequence[str] = ()
) -> Iterator[tuple[int, list[Any]]]:
    """Number, from 1, and values of each row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        source = pq.ParquetFile(file)
        names = source.schema_arrow.names
        there = [name for name in wanted if name not in optional or name in names]
        for name in there:
            column(names, name, where)
        start = 1
        for batch in source.iter_batches(columns=list(dict.fromkeys(there))):
            values = [batch.column(name).to_pylist() if name in there else [None] * len(batch) for name in wanted]
            yield from enumerate(map(list, zip(*values, strict=True)), start)
            start += len(batch)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{where} is no readable Parquet file ({str(error).splitlines()[0][:160]})") from error


def column(header: Sequence[str], name: str, where: str) -> int:
    """The place of a column; UserError where it is missing or there twice."""
    if header.count(name) == 1:
        return header.index(name)
    if name in header:
        raise UserError(f"{where} has column {name!r} twice; rename one of them")
    near = difflib.get_close_matches(name, header, 1)
    listed = ", ".join(header[:LISTED]) + (", ..." if len(header) > LISTED else "")
    raise UserError(
        f"{where} has no column {name!r}{f'; did you mean {near[0]!r}?' if near else ''}; its columns are {listed}"
    )
