"""Mined negatives: documents that some ranking puts high and that are not relevant, as far as is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from rwkd_lightning.systems.retrieval.bm25 import BM25
from rwkd_lightning.systems.retrieval.collection import META, TRAIN, Collection
from rwkd_lightning.systems.retrieval.scoring import encode
from rwkd_lightning.systems.retrieval.sentence_folder import read_student, student_of
from rwkd_lightning.systems.retrieval.tokens import Texts
from rwkd_lightning.utils.errors import UserError

NONE, BY_WORDS, BY_TEACHER = "none", "bm25", "teacher"
MINED = (TRAIN, META)
"""The splits whose queries get negatives, each by its own qrels."""


def is_run(kind: str) -> bool:
    """Whether negatives are those of a finished run's student, by the value of the setting."""
    return kind not in (NONE, BY_WORDS, BY_TEACHER)


def scores_by_words(collection: Collection) -> dict[str, np.ndarray]:
    """BM25's scores ``(Q, D)`` for the queries of each split."""
    index = BM25(collection.texts)
    return {name: index.scores(queries.texts) for name, queries in collection.splits.items()}


def scores_by_student(run: str, collection: Collection, batch_size: int, device: torch.device) -> dict[str, np.ndarray]:
    """The cosines ``(Q, D)`` of a finished run's student for the queries that get negatives.

    Raises:
        UserError: if the run left no student.
    """
    student, tokenizer, settings = read_student(student_of(run))
    documents = Texts(collection.texts, tokenizer, settings["document_length"], "document")
    vectors = encode(student, documents, batch_size, device, "mining: documents")
    found = {}
    for name in MINED:
        queries = Texts(collection.splits[name].texts, tokenizer, settings["query_length"], "query")
        found[name] = (encode(student, queries, batch_size, device, f"mining: {name}") @ vectors.T).numpy()
    return found


def negatives_by(
    scores: Mapping[str, np.ndarray],
    collection: Collection,
    depth: int,
    teacher: Mapping[str, Tensor] | None = None,
    margin: float | None = None,
) -> dict[str, np.ndarray]:
    """The best-scored documents that are not relevant to each query, hardest first, ``(Q, depth)`` by split.

    Args:
        scores: ``(Q, D)`` by split.
        depth: documents of a query.
        teacher: its scores ``(Q, D)`` by split, for the margin.
        margin: a document is left out if the teacher scores it above the query's lowest-scored relevant document less
            this: it may be relevant, and nobody has said so. None: none is.

    Raises:
        UserError: where too few are left.
    """
    found = {}
    for name in MINED:
        relevant = collection.splits[name].relevant
        excluded = known(relevant, collection.splits[name].texts, len(collection.ids))
        if teacher is not None and margin is not None:
            table = teacher[name].numpy()
            lowest = np.array([row[list(grades)].min() for row, grades in zip(table, relevant, strict=True)])
            excluded |= table > lowest[:, None] - margin
        found[name] = hardest(scores[name], excluded, depth)
    return found


def known(relevant: Sequence[Mapping[int, float]], texts: Sequence[str], documents: int) -> np.ndarray:
    """``(Q, D)``, true where a document is relevant to a query or to another one with the same text."""
    by_text: dict[str, set[int]] = {}
    for text, grades in zip(texts, relevant, strict=True):
        by_text.setdefault(text, set()).update(grades)
    found = np.zeros((len(texts), documents), dtype=bool)
    for row, text in zip(found, texts, strict=True):
        row[list(by_text[text])] = True
    return found


def hardest(scores: np.ndarray, excluded: np.ndarray, depth: int) -> np.ndarray:
    """The places ``(Q, depth)`` of the best-scored documents ``(Q, D)`` that are not excluded, best first.

    Raises:
        UserError: where a query has fewer.
    """
    room = int((~excluded).sum(1).min(initial=scores.shape[1]))
    if room < depth:
        raise UserError(
            f"a query has only {room} documents that may be its negatives, and data.negative_depth={depth} asks for "
            f"more; give data.negative_depth={max(1, room)}, a smaller data.negative_margin, or data.negatives=none"
        )
    order: np.ndarray = np.argsort(np.where(excluded, np.inf, -scores), axis=1, kind="stable")[:, :depth]
    return order
