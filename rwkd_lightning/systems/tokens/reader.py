"""Tagged sentences from files: columns, as those of the CoNLL tasks, or JSON lines."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rwkd_lightning.data.table_file import decoded, objects
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.paths import place

JSON = (".jsonl", ".json")
DOCUMENT = "-DOCSTART-"
"""The first field of a line that begins a document and is no word."""


@dataclass(frozen=True)
class Fields:
    """Where words and tags stand in a file."""

    token_column: int = 0
    """Of a column file, from 0; negative ones count from the last."""
    tag_column: int = -1
    tokens: str = "tokens"
    """Of JSON lines, the key of the list of words."""
    tags: str = "tags"
    weight: str | None = None
    """Of JSON lines, the key of a sentence's weight."""


@dataclass
class Sentences:
    """N sentences as words and tags, and where in the file each word is."""

    where: str
    tokens: list[list[str]] = field(default_factory=list)
    tags: list[list[str]] = field(default_factory=list)
    """Empty lists where only words were read."""
    lines: list[list[int]] = field(default_factory=list)
    weights: list[Any] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.tokens)

    def at(self, row: int, word: int = 0) -> str:
        """The place of a word, for messages: ``data.train='a.conll', line 3``."""
        return f"{self.where}, line {self.lines[row][word]}"


def read_sentences(
    path: str, setting: str, fields: Fields, encoding: str | None = None, tagged: bool = True
) -> Sentences:
    """Read a file: JSON lines if its name ends in .jsonl or .json, else columns.

    Args:
        setting: what named the path, for messages.
        encoding: None: UTF-8, or UTF-16 with a mark at its start.
        tagged: False: the words alone are read.

    Raises:
        UserError: for a path or a line that cannot be read; file and line are named.
    """
    file = place(path, setting)
    if not file.is_file():
        near = difflib.get_close_matches(file.name, [other.name for other in file.parent.glob("*")], 1)
        what = "is a directory" if file.is_dir() else "is not there"
        hint = f"did you mean {file.parent / near[0]}?" if near and not file.is_dir() else "give a file"
        raise UserError(f"{setting}={str(file)!r} {what}; {hint}")
    where = f"{setting}={str(file)!r}"
    text = decoded(file, encoding, where)
    found = from_json(text, where, fields, tagged) if is_json(file) else from_columns(text, file, where, fields, tagged)
    if not len(found):
        raise UserError(f"{where} has no sentence; give a file with some")
    return found


def is_json(file: Path) -> bool:
    """Whether a file is read as JSON lines."""
    return file.suffix in JSON


def from_columns(text: str, file: Path, where: str, fields: Fields, tagged: bool) -> Sentences:
    """A word a line with its columns, a blank line after each sentence."""
    if fields.weight is not None:
        raise UserError(
            f"{where}: data.weight={fields.weight} is a key of JSON lines, and columns have none; give .jsonl"
        )
    found = Sentences(where)
    for sentence in sentences(text.split("\n"), file, where):
        words = []
        for number, columns in sentence:
            if tagged and len(columns) < 2:
                raise UserError(
                    f"{where} has no tag in line {number}, only {columns[0]!r}; give a word and its tag in each line"
                )
            token = cell(columns, fields.token_column, "data.token_column", where, number)
            tag = cell(columns, fields.tag_column, "data.tag_column", where, number) if tagged else ""
            words.append((number, token, tag))
        add(found, words)
    return found


def sentences(lines: Iterable[str], file: Path, where: str) -> Iterator[list[tuple[int, list[str]]]]:
    """Of each sentence, the numbers and columns of its lines.

    Raises:
        UserError: for a line with more or fewer columns than the first one.
    """
    first: tuple[int, int] | None = None
    words: list[tuple[int, list[str]]] = []
    for number, columns in rows(lines, file):
        if columns is None:
            if words:
                yield words
            words = []
            continue
        first = first or (number, len(columns))
        if len(columns) != first[1]:
            raise UserError(
                f"{where} has {len(columns)} columns in line {number}, line {first[0]} has {first[1]}; give each word "
                "as many, with a tab or blanks between them, and a blank line after each sentence"
            )
        words.append((number, columns))
    if words:
        yield words


def rows(lines: Iterable[str], file: Path) -> Iterator[tuple[int, list[str] | None]]:
    """Number and columns of each line; None between sentences. Of CoNLL-U, comments and lines of no single word are
    left out.
    """
    for number, text in enumerate(lines, 1):
        line = text.rstrip("\r\n")
        columns = line.split("\t") if "\t" in line else line.split()
        if not line.strip() or columns[0].strip() == DOCUMENT:
            yield number, None
        elif file.suffix == ".conllu" and (line.startswith("#") or not columns[0].isdigit()):
            continue
        else:
            yield number, columns


def cell(columns: list[str], at: int, setting: str, where: str, line: int) -> str:
    """A field of a line; UserError where it is not there or empty."""
    if not -len(columns) <= at < len(columns):
        raise UserError(
            f"{setting}={at}: {where} has {len(columns)} columns in line {line}, counted from 0 (-1: the last)"
        )
    value = columns[at].strip()
    if not value:
        what = "word" if setting == "data.token_column" else "tag"
        raise UserError(f"{where} has an empty {what} in line {line}, column {at}; give one, or drop the line")
    return value


def add(found: Sentences, words: list[tuple[int, str, str]]) -> None:
    """Add a sentence."""
    lines, tokens, tags = (list(part) for part in zip(*words, strict=True))
    found.lines.append(lines)
    found.tokens.append(tokens)
    found.tags.append(tags)


def from_json(text: str, where: str, fields: Fields, tagged: bool) -> Sentences:
    """An object a line, with a list of words and one of tags."""
    found = Sentences(where)
    wanted = [fields.tokens, *([fields.tags] if tagged else []), *([fields.weight] if fields.weight and tagged else [])]
    for line, values in objects(text, wanted, where):
        tokens = texts(values[0], fields.tokens, where, line)
        tags = texts(values[1], fields.tags, where, line) if tagged else [""] * len(tokens)
        if not tokens:
            raise UserError(f"{where} has a sentence without a word in line {line}; drop the line")
        if len(tags) != len(tokens):
            raise UserError(
                f"{where} has {len(tokens)} words and {len(tags)} tags in line {line}; give each word one tag"
            )
        found.tokens.append(tokens)
        found.tags.append(tags)
        found.lines.append([line] * len(tokens))
        if fields.weight and tagged:
            found.weights.append(values[-1])
    return found


def texts(value: Any, key: str, where: str, line: int) -> list[str]:
    """A list of texts that are not empty; UserError for anything else."""
    if not isinstance(value, list):
        has = "no list" if value is None else f"a {type(value).__name__}"
        raise UserError(f"{where} has {has} as {key!r} in line {line}; give a list of texts")
    for one in value:
        if not isinstance(one, str) or not one.strip():
            raise UserError(
                f"{where} has {one!r} in {key!r} in line {line}; give texts that are not empty, tags by name"
            )
    return value
