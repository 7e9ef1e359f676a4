"""Corpora from a file of raw documents: text, CSV, TSV, or a JSON object a line."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

from rwkd_lightning.systems.topics.corpus import Corpus, make_corpus
from rwkd_lightning.systems.topics.preprocessing import preprocess
from rwkd_lightning.systems.topics.text_file import Settings, lines, read_text
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.paths import place

TEXT, TABLES, JSON = (".txt",), {".csv": ",", ".tsv": "\t"}, (".jsonl", ".json")
KINDS = f"{', '.join([*TEXT, *TABLES, *JSON])}"
CONFIG = Settings()


class Document(NamedTuple):
    """A document and the line it starts in, from 1."""

    line: int
    text: str
    label: str | None


def load_documents(
    path: str | Path,
    text_column: str = "text",
    label_column: str | None = None,
    delimiter: str | None = None,
    **words: Any,
) -> Corpus:
    """Load the documents, preprocessed by `preprocess`; the texts stay raw.

    Args:
        path: ``.txt`` (a document a line), ``.csv`` or ``.tsv`` (with a header), ``.jsonl`` or ``.json`` (an object a
            line).
        text_column: where the text is; a .txt has no columns.
        label_column: where the label is; None: no labels.
        delimiter: of a table; None: a comma, or a tab in a .tsv.
        words: what `preprocess` takes.

    Raises:
        UserError: for what `read_documents`, `preprocess` and `make_corpus` refuse.
    """
    file = place(path, CONFIG.path)
    documents = read_documents(file, text_column, label_column, delimiter)
    texts = [document.text for document in documents]
    labels = [document.label for document in documents if document.label is not None]
    found, vocabulary = preprocess(texts, **words)
    return make_corpus(file.stem, texts, found, vocabulary, labels if label_column is not None else None)


def read_documents(
    file: Path, text_column: str, label_column: str | None, delimiter: str | None = None, settings: Settings = CONFIG
) -> list[Document]:
    """The documents in the file's order.

    Args:
        settings: what the messages call file and columns.

    Raises:
        UserError: if it is no such file, or for a row that is broken or lacks a column.
    """
    where, kind = f"{settings.path}={str(file)!r}", file.suffix.lower()
    if kind not in (*TEXT, *TABLES, *JSON):
        raise UserError(f"{where} ends in none of {KINDS}; rename it, or convert it to one of them")
    if not file.is_file():
        raise UserError(
            f"{where} is {'a folder' if file.is_dir() else 'not there'}; give a file that ends in one of {KINDS}"
        )
    check_delimiter(delimiter, kind, where, settings)
    content = read_text(file, settings.path)
    if kind in TEXT:
        if label_column is not None or text_column != "text":
            given = settings.label if label_column is not None else settings.text
            raise UserError(
                f"{where} has no columns, so {given} does not apply; leave it out, or give a table "
                f"({', '.join(TABLES)})"
            )
        documents = [Document(number, line, None) for number, line in enumerate(lines(content), 1)]
    elif kind in TABLES:
        documents = _table(content, kind, delimiter or TABLES[kind], text_column, label_column, where, settings)
    else:
        documents = _objects(content, text_column, label_column, where, settings)
    for document in documents:
        if label_column is not None and not document.label:
            raise UserError(
                f"{where} has no {label_column!r} in line {document.line}; give each document a label, or leave "
                f"{settings.label} out"
            )
        if any(
            "\ud800" <= c <= "\udfff" for c in document.text + (document.label or "")
        ):  # JSON can write half a character
            raise UserError(
                f"{where} has half a surrogate pair in line {document.line}, which is no character; delete it"
            )
    return documents


def check_delimiter(delimiter: str | None, kind: str, where: str, settings: Settings) -> None:
    """Raise UserError for a delimiter that is no single character, or of what is no table."""
    if delimiter is None:
        return
    option = settings.delimiter.format(delimiter)
    if kind not in TABLES:
        raise UserError(f"{where} is no table ({', '.join(TABLES)}), so {option} does not apply; leave it out")
    if not isinstance(delimiter, str) or len(delimiter) != 1 or delimiter in '"\r\n':
        raise UserError(
            f"{option} is no delimiter; give a single character other than a quote and a line break, as "
            f"{settings.delimiter.format(';')}"
        )


def _table(
    content: str, kind: str, delimiter: str, text_column: str, label_column: str | None, where: str, settings: Settings
) -> list[Document]:
    documents = []
    limit = csv.field_size_limit(max(len(content), 1))  # a document may be a book
    rows = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(fields for fields in rows if fields)
        if len(header) == 1 and not {text_column, label_column} <= {*header, None}:
            check_header(header[0], delimiter, kind, where, settings)
        text = _column(header, text_column, settings.text, where)
        label = None if label_column is None else _column(header, label_column, settings.label, where)
        start = rows.line_num + 1
        for fields in rows:
            if fields and len(fields) != len(header):
                raise UserError(
                    f"{where} has {len(fields)} fields in line {start}, its header {len(header)}; put a text that "
                    "holds the delimiter or a line break in quotes"
                )
            if fields:
                documents.append(Document(start, fields[text], None if label is None else fields[label].strip()))
            start = rows.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{where} is not a readable table ({error} in line {rows.line_num}); look at the quotes there"
        ) from error
    finally:
        csv.field_size_limit(limit)
    return documents


def check_header(header: str, delimiter: str, kind: str, where: str, settings: Settings) -> None:
    """Raise UserError for a header of one column that holds another delimiter."""
    for other in (";", "\t", "|", ","):
        if other != delimiter and other in header:
            way_out = f"give {settings.delimiter.format(other)}"
            if other in TABLES.values():
                ending = next(ending for ending, mark in TABLES.items() if mark == other)
                way_out = (
                    f"leave {settings.delimiter.format(delimiter)} out"
                    if ending == kind
                    else f"rename it so that it ends in {ending}"
                )
            raise UserError(
                f"{where} has no {delimiter!r} in its header {header!r}; if its delimiter is {other!r}, {way_out}"
            )


def _column(header: list[str], name: str, option: str, where: str) -> int:
    if header.count(name) != 1:
        has = f"column {name!r} twice" if name in header else f"no column {name!r}"
        raise UserError(f"{where} has {has}; its columns are {', '.join(header)}: name one with {option}")
    return header.index(name)


def _objects(
    content: str, text_column: str, label_column: str | None, where: str, settings: Settings
) -> list[Document]:
    documents = []
    for number, line in enumerate(lines(content), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            raise UserError(f"{where} has no JSON in line {number} ({reason}); write one object a line") from error
        if not isinstance(row, dict):
            raise UserError(f"{where} has a {type(row).__name__} in line {number}; write one object a line")
        for name, option in ((text_column, settings.text), (label_column, settings.label)):
            if name is not None and name not in row:
                raise UserError(
                    f"{where} has no {name!r} in line {number}; there are {', '.join(row) or 'none'}: name one with "
                    f"{option}"
                )
        text, label = row[text_column], None if label_column is None else row[label_column]
        if not isinstance(text, str):
            raise UserError(f"{where} has a {type(text).__name__} as {text_column!r} in line {number}; give text")
        if isinstance(label, bool) or not isinstance(
            label, str | int | None
        ):  # the name of true or of 1e3 would be a guess
            raise UserError(
                f"{where} has {json.dumps(label)[:60]} as {label_column!r} in line {number}; give text or a whole "
                "number"
            )
        documents.append(Document(number, text, None if label is None else str(label).strip()))
    return documents
