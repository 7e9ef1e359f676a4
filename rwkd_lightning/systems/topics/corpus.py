"""A corpus of documents as topic models read it: texts, words, counts; and its parts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rwkd_lightning.cache.store import digest
from rwkd_lightning.systems.topics.needs import needed
from rwkd_lightning.utils.errors import UserError

log = logging.getLogger(__name__)
FEWEST_DOCUMENTS, FEWEST_WORDS = 10, 2
_STREAM = 31  # keeps this use of a seed apart from the others that start from the same number


@dataclass(frozen=True, eq=False)
class Corpus:
    """N documents over a vocabulary of V words; each has at least one of them."""

    name: str
    texts: list[str]
    """Read by the sentence encoder: the raw text where there is one."""
    words: list[list[str]]
    """The document's words of the vocabulary, in its order."""
    vocabulary: tuple[str, ...]
    counts: Any
    """``scipy.sparse.csr_matrix`` float32 ``(N, V)``: how often each word is in each document, made from ``words``."""
    labels: np.ndarray | None
    """``(N,)`` int64: which of ``label_names``."""
    label_names: tuple[str, ...] | None
    idx: np.ndarray
    """``(N,)`` int64: the document's number in its source, from 0."""

    def __len__(self) -> int:
        return len(self.texts)

    def fingerprint(self) -> str:
        """SHA-256 over all that a training depends on (the counts are made from the words)."""
        return digest(
            [
                self.texts,
                self.words,
                self.vocabulary,
                None if self.labels is None else self.labels.tolist(),
                self.label_names,
                self.idx.tolist(),
            ]
        )


def make_corpus(
    name: str,
    texts: Sequence[str],
    words: Sequence[Sequence[str]],
    vocabulary: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
) -> Corpus:
    """A checked corpus; documents without a word of the vocabulary are left out, and one log line says how many.

    Args:
        words: of each document, in order; those that are not in the vocabulary are left out.
        vocabulary: in the order of the counts' columns; None: all words, sorted.
        labels: of each document, by name; the corpus numbers the sorted names.

    Raises:
        UserError: for a vocabulary that names a word twice or has fewer than 2, or fewer than 10 documents.
    """
    if len(words) != len(texts) or (labels is not None and len(labels) != len(texts)):
        raise ValueError(f"{len(texts)} texts, {len(words)} lists of words and {labels and len(labels)} labels")
    chosen = tuple(sorted({word for document in words for word in document}) if vocabulary is None else vocabulary)
    column = {word: number for number, word in enumerate(chosen)}
    if len(column) < len(chosen):
        twice = next(word for number, word in enumerate(chosen) if column[word] != number)
        raise UserError(f"corpus {name!r}: its vocabulary has the word {twice!r} twice; name each once")
    if len(chosen) < FEWEST_WORDS:
        raise UserError(
            f"corpus {name!r}: its vocabulary has {len(chosen)} words, and topics need {FEWEST_WORDS} or more; "
            "give more text"
        )
    inside = [[word for word in document if word in column] for document in words]
    kept = [number for number, document in enumerate(inside) if document]
    if len(kept) < len(texts):
        log.info(
            "%s: %d of %d documents have no word of the vocabulary and are left out",
            name,
            len(texts) - len(kept),
            len(texts),
        )
    if len(kept) < FEWEST_DOCUMENTS:
        raise UserError(
            f"corpus {name!r} has {len(kept)} documents with a word of its vocabulary (of {len(texts)}); give "
            f"{FEWEST_DOCUMENTS} or more"
        )
    documents = [inside[number] for number in kept]
    names = None if labels is None else tuple(sorted({labels[number] for number in kept}))
    numbers = None
    if labels is not None and names is not None:
        numbers = np.array([names.index(labels[number]) for number in kept], dtype=np.int64)
    return Corpus(
        name,
        [texts[number] for number in kept],
        documents,
        chosen,
        _count(documents, column),
        numbers,
        names,
        np.array(kept, dtype=np.int64),
    )


def _count(documents: Sequence[Sequence[str]], column: dict[str, int]) -> Any:
    columns = np.array([column[word] for document in documents for word in document], dtype=np.int64)
    starts = np.cumsum([0, *(len(document) for document in documents)])
    ones = np.ones(len(columns), dtype=np.float32)
    counts = needed("scipy.sparse").csr_matrix((ones, columns, starts), shape=(len(documents), len(column)))
    counts.sum_duplicates()
    return counts


def split(corpus: Corpus, meta_fraction: float, test_fraction: float, seed: int) -> dict[str, np.ndarray]:
    """Sorted row numbers of ``train``, ``meta`` and ``test``: disjoint, and all of the corpus.

    Documents with the same words lie in the same part, so a part may be some documents larger than its fraction.

    Args:
        meta_fraction: above 0 and up to 0.5.
        test_fraction: from 0 (no test part) to 0.5.

    Raises:
        UserError: for another fraction, or where a part would be empty.
    """
    sizes: dict[str, int] = {}
    for part, fraction in (("meta", meta_fraction), ("test", test_fraction)):
        off = part == "test" and fraction == 0
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not (off or 0 < fraction <= 0.5):
            raise UserError(
                f"{part}_fraction is {fraction!r}; give a number above 0 and up to 0.5{', or 0' * (part == 'test')}"
            )
        sizes[part] = round(fraction * len(corpus))
        if not off and not sizes[part]:
            raise UserError(
                f"{part}_fraction={fraction} of the {len(corpus)} documents of {corpus.name!r} is none; give more"
            )
    same: dict[tuple[str, ...], list[int]] = {}
    for row, words in enumerate(corpus.words):
        same.setdefault(tuple(words), []).append(row)
    groups = list(same.values())
    order = [groups[number] for number in np.random.default_rng([seed, _STREAM]).permutation(len(groups))]
    parts: dict[str, list[int]] = {"train": [], "meta": [], "test": []}
    for group in order:
        parts[next((part for part in ("meta", "test") if len(parts[part]) < sizes[part]), "train")] += group
    if empty := [part for part in parts if not parts[part] and sizes.get(part) != 0]:
        raise UserError(
            f"meta_fraction={meta_fraction} and test_fraction={test_fraction} of {corpus.name!r} leave no document "
            f"for the {empty[0]} part ({len(corpus)} documents, {len(groups)} different ones); give less"
        )
    return {part: np.array(sorted(rows), dtype=np.int64) for part, rows in parts.items()}
