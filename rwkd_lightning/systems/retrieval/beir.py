"""Collections in the layout of BEIR (Thakur et al., NeurIPS 2021): corpus.jsonl, queries.jsonl, qrels/*.tsv."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from rwkd_lightning.systems.retrieval.collection import TEST, TRAIN, VALIDATION, Collection, Queries
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.paths import place

log = logging.getLogger(__name__)
SPLITS = {TRAIN: ("train",), VALIDATION: ("dev", "validation", "valid"), TEST: ("test",)}
LAYOUT = "a directory with corpus.jsonl, queries.jsonl and qrels/train.tsv, qrels/test.tsv (.gz too)"


def load_beir(path: str) -> Collection:
    """Read a directory.

    Identifiers are texts; a title may be missing and comes first; a relevance of 0 or less means judged and not
    relevant. Qrels have three columns, with or without a header, or TREC's four. Queries without a judgement are left
    out, as ``queries.jsonl`` often holds those of all splits, and so is a training pair whose document has no text.

    Raises:
        UserError: naming file and line: for a file that is missing or is no such file, an identifier that stands twice,
            a judgement whose query or document there is not, and a query without text.
    """
    folder = place(path, "data.path")
    ids, texts = documents_of(find(folder, "corpus.jsonl"))
    numbers = {name: number for number, name in enumerate(ids)}
    questions = queries_of(find(folder, "queries.jsonl"))
    splits = {}
    for split, names in SPLITS.items():
        file = next((f for name in names if (f := present(folder / "qrels" / f"{name}.tsv")) is not None), None)
        if file is not None:
            splits[split] = judged(file, questions, numbers, texts, learn=split == TRAIN)
    for split in (TRAIN, TEST):
        if split not in splits:
            there = sorted(file.name for file in (folder / "qrels").glob("*"))
            raise UserError(
                f"data.path={path!r} has no qrels/{split}.tsv, only {', '.join(there) or 'no qrels'}; give {LAYOUT}"
            )
    return Collection(folder.name, ids, texts, splits)


def present(file: Path) -> Path | None:
    """The file, or the packed one beside it, if either is there."""
    return next((f for f in (file, file.with_name(f"{file.name}.gz")) if f.is_file()), None)


def find(folder: Path, name: str) -> Path:
    """A file of the directory."""
    file = present(folder / name)
    if file is None:
        raise UserError(f"data.path={str(folder)!r} has no {name}; give {LAYOUT}")
    return file


def opened(file: Path) -> TextIO:
    """A file to be read as text, unpacked."""
    return gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8")


def lines(file: Path) -> Iterator[tuple[int, str]]:
    """The number, from 1, and the text of each line that is not blank."""
    try:
        with opened(file) as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{file} cannot be read ({reason}); it must be UTF-8 text, or packed with gzip") from error


def records(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Identifier and content of each line of JSON."""
    seen: dict[str, int] = {}
    for number, line in lines(file):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file}, line {number} is not JSON: {line[:60]!r}") from error
        if not isinstance(record, dict) or "_id" not in record or "text" not in record:
            raise UserError(f'{file}, line {number} is no {{"_id": ..., "text": ...}}: {line[:60]!r}')
        name = str(record["_id"])
        if name in seen:
            raise UserError(
                f"{file}: _id {name!r} stands in line {seen[name]} and in line {number}; each needs its own"
            )
        seen[name] = number
        for key in ("title", "text"):
            if not isinstance(record.get(key) or "", str):
                raise UserError(f"{file}, line {number}: {key} is {record[key]!r} and no text")
        yield name, record


def documents_of(file: Path) -> tuple[list[str], list[str]]:
    """Identifiers and texts of a corpus."""
    found = [
        (name, " ".join(f"{record.get('title') or ''} {record['text'] or ''}".split()))
        for name, record in records(file)
    ]
    if not found:
        raise UserError(f"{file} holds no document; give {LAYOUT}")
    ids, texts = zip(*found, strict=True)
    return list(ids), list(texts)


def queries_of(file: Path) -> dict[str, str]:
    """Texts by identifier."""
    return {name: " ".join((record["text"] or "").split()) for name, record in records(file)}


def judged(
    file: Path, questions: dict[str, str], numbers: dict[str, int], texts: list[str], learn: bool = False
) -> Queries:
    """The queries of a file of judgements, in the order in which it first names them.

    Args:
        learn: whether these are learned from; a document without text then is no example of anything.
    """
    found: dict[str, dict[int, float]] = {}
    for number, line in lines(file):
        cells = line.split("\t") if "\t" in line else line.split()
        if len(cells) == 4:  # TREC: query, iteration, document, relevance
            cells = [cells[0], cells[2], cells[3]]
        where = f"{file}, line {number}"
        if len(cells) != 3:
            raise UserError(f"{where} has {len(cells)} columns; it needs query, document and relevance: {line[:60]!r}")
        query, document, grade = (cell.strip() for cell in cells)
        try:
            relevance = float(grade)
        except ValueError:
            if number == 1:  # a header
                continue
            raise UserError(f"{where}: the relevance {grade!r} is no number") from None
        if query not in questions:
            raise UserError(f"{where} judges the query {query!r}, which is not in queries.jsonl")
        if document not in numbers:
            raise UserError(f"{where} judges the document {document!r}, which is not in corpus.jsonl")
        if relevance > 0:
            if not questions[query]:
                raise UserError(f"{where}: the query {query!r} has no text in queries.jsonl")
            if not texts[numbers[document]] and learn:
                log.warning("%s: the relevant document %r has no text and is left out", where, document)
                continue
            found.setdefault(query, {})[numbers[document]] = relevance
    if not found:
        raise UserError(f"{file} finds no document relevant; a relevance above 0 says so")
    return Queries(list(found), [questions[query] for query in found], list(found.values()))
