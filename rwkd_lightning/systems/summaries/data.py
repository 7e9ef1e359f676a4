"""Documents with their summaries, and the splits of them."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rwkd_lightning.cache.store import digest
from rwkd_lightning.data.splits import stratified_group_split
from rwkd_lightning.data.table_file import KINDS, Table, read_table
from rwkd_lightning.systems.summaries import api_docs
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.paths import place

log = logging.getLogger(__name__)
TRAIN, META, VALIDATION, TEST = "train", "meta", "validation", "test"
SPLITS = (TRAIN, META, VALIDATION, TEST)
LONGEST = 1_000_000
"""Characters of a text; what is longer is a file without line breaks rather than a document."""
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


@dataclass
class Split:
    """N documents, their summaries, the family of each (near-copies share one) and their numbers in the source."""

    documents: list[str]
    summaries: list[str]
    families: list[str]
    idx: list[int]

    def __len__(self) -> int:
        return len(self.documents)

    def fingerprint(self) -> str:
        """A digest of its texts."""
        return digest([self.documents, self.summaries, self.families])

    def select(self, rows: Sequence[int]) -> Split:
        """Some of its rows."""
        columns = (self.documents, self.summaries, self.families, self.idx)
        return Split(*([column[row] for row in rows] for column in columns))  # type: ignore[arg-type]


@dataclass
class SummaryData:
    """The splits ``train``, ``meta``, ``validation`` and ``test``.

    Args:
        baselines: what needs no training, by name: document -> summary.
    """

    name: str
    splits: dict[str, Split]
    baselines: dict[str, Callable[[str], str]]


def load_summaries(
    path: str | None = None,
    document: str = "document",
    summary: str = "summary",
    family: str | None = None,
    encoding: str | None = None,
    meta_fraction: float = 0.1,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.1,
    split_seed: int = 0,
) -> SummaryData:
    """Read documents and summaries; no family is in two splits.

    Args:
        path: a directory with ``train.jsonl`` (or another kind of table) and, if there are such, ``validation`` and
            ``test`` of the same kind, or one file; None: the API texts of the package ``botocore``.
        document, summary: the names of the columns.
        family: of the column that names near-copies' family; None: equal documents are one. Of the API texts it is the
            service.
        encoding: of text files, see ``data.table_file``.
        meta_fraction, validation_fraction, test_fraction: shares that are cut from train where there is no file.
        split_seed: of the cuts.

    Raises:
        UserError: for what cannot be read, an empty or endless text, columns that look swapped, and too few rows.
    """
    if path is None:
        rows = api_docs.api_docs()
        services, documents, summaries = (list(column) for column in zip(*rows, strict=True))
        read = {TRAIN: Split(documents, summaries, services, list(range(len(rows))))}
        name = "api_docs"
        baselines: dict[str, Callable[[str], str]] = {"header": api_docs.header, "lead": api_lead}
    else:
        read = {split: read_split(file, document, summary, family, encoding) for split, file in files_of(path).items()}
        name, baselines = Path(path).stem, {"lead": lead}
    shares = {META: meta_fraction, VALIDATION: validation_fraction, TEST: test_fraction}
    return SummaryData(name, cut(read, shares, split_seed, path), baselines)


def lead(document: str) -> str:
    """The first sentence of a document."""
    return next((part for part in SENTENCE_END.split(document.strip()) if part), "")


def api_lead(document: str) -> str:
    """The first sentence after the name."""
    return lead(document.partition(". ")[2])


def files_of(path: str) -> dict[str, str]:
    """The file of each split that has one."""
    root = place(path, "data.path")
    if not root.is_dir():
        return {TRAIN: path}
    found = {}
    for split in (TRAIN, VALIDATION, TEST):
        files = [root / f"{split}{kind}" for kind in KINDS if (root / f"{split}{kind}").is_file()]
        if len(files) > 1:
            raise UserError(f"data.path={path!r} holds {files[0].name} and {files[1].name}; leave one of them there")
        if files:
            found[split] = str(files[0])
    if TRAIN not in found:
        raise UserError(
            f"data.path={path!r} holds no train.jsonl (or another of {', '.join(KINDS)}); name the training file so"
        )
    return found


def read_split(file: str, document: str, summary: str, family: str | None, encoding: str | None) -> Split:
    """The rows of a file, checked."""
    wanted = [document, summary, *([family] if family else [])]
    table = read_table(file, list(dict.fromkeys(wanted)), "data.path", encoding)
    documents = texts(table, document, "document")
    summaries = texts(table, summary, "summary")
    longer = [row for row in range(len(table)) if len(summaries[row].split()) > len(documents[row].split())]
    if 2 * len(longer) > len(table):
        raise UserError(
            f"{table.at(longer[0])} and {len(longer) - 1} other rows have a {summary!r} longer than the {document!r}; "
            f"if the columns are swapped, give data.document={summary} and data.summary={document}"
        )
    if longer:
        log.warning(
            "%s and %d other rows have a summary longer than the document", table.at(longer[0]), len(longer) - 1
        )
    families = documents if family is None else [str(value) for value in table.columns[family]]
    return Split(documents, summaries, [key_of(value) for value in families], list(range(len(table))))


def texts(table: Table, name: str, what: str) -> list[str]:
    """A column of texts; UserError for the first value that is none, is empty or endless."""
    for row, value in enumerate(table.columns[name]):
        if not isinstance(value, str):
            raise UserError(f"{table.at(row)} has {value!r} as its {name!r}; give each row a text as its {what}")
        if not value.strip():
            raise UserError(f"{table.at(row)} has an empty {name!r}; give each row a {what}, or leave the row out")
        if len(value) > LONGEST:
            raise UserError(
                f"{table.at(row)} has a {name!r} of {len(value):,} characters, and {LONGEST:,} are the most; cut it, "
                "or look whether line breaks are missing"
            )
    return list(table.columns[name])


def key_of(text: str) -> str:
    """A text by letters and digits alone, so that copies with other marks and cases are one family."""
    return " ".join(re.findall(r"\w+", text.casefold())) or text


def cut(read: dict[str, Split], shares: dict[str, float], seed: int, path: str | None) -> dict[str, Split]:
    """All splits: those that were read, without training rows of a family in them, and the others cut from train."""
    train, known = read[TRAIN], [name for name in (VALIDATION, TEST) if name in read]
    held = {family for name in known for family in read[name].families}
    kept = [row for row, family in enumerate(train.families) if family not in held]
    if len(kept) < len(train):
        log.warning(
            "%d training rows are left out: their family is in %s too", len(train) - len(kept), " or ".join(known)
        )
    rest, total = train.select(kept), len(kept)
    splits = {name: read[name] for name in known}
    for number, name in enumerate(name for name in (META, VALIDATION, TEST) if name not in read):
        share = min(0.5, shares[name] * total / max(1, len(rest)))
        rows, taken = stratified_group_split(rest.families, np.zeros(len(rest), dtype=int), share, 3 * seed + number)
        if not len(taken):
            raise UserError(
                f"data.path={path!r} has {len(set(rest.families))} families of documents left, too few to cut a {name} "
                "split; give more rows"
            )
        splits[name], rest = rest.select(taken.tolist()), rest.select(rows.tolist())
    return {TRAIN: rest, **splits}


def tell(data: SummaryData) -> None:
    """Log the sizes."""
    for name, split in data.splits.items():
        words: Any = [np.array([len(text.split()) for text in column]) for column in (split.documents, split.summaries)]
        log.info(
            "%s %s: %d documents of %d families, %.0f words in the median; summaries %.0f",
            data.name,
            name,
            len(split),
            len(set(split.families)),
            *(np.median(count) for count in words),
        )
