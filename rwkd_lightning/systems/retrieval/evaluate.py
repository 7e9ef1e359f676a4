"""The scores of teacher and student, and of what needs no training, over the whole collection."""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rwkd_lightning.systems.retrieval.collection import META, TEST, TRAIN, VALIDATION, Collection
from rwkd_lightning.systems.retrieval.datamodule import RetrievalDataModule
from rwkd_lightning.systems.retrieval.metrics import per_query, rankings
from rwkd_lightning.systems.retrieval.scoring import encode
from rwkd_lightning.systems.retrieval.student import BiEncoder
from rwkd_lightning.systems.retrieval.validation import MONITOR, reciprocal_ranks

EVALUATED = (VALIDATION, TEST)


@dataclass
class Found:
    """What a student makes of a collection.

    Attributes:
        scores: by split, then by metric.
        vectors: of the documents, ``(D, d)``.
        ranked: of each test query the best documents, ``(Q, 100)``.
        cosines: of the test queries, ``(Q, D)``.
        query_seconds: from text to ranking, for one test query alone.
        rows: the scores of each query, as `rows_of` has them.
    """

    scores: dict[str, dict[str, float]]
    vectors: Tensor
    ranked: np.ndarray
    cosines: Tensor
    query_seconds: float
    rows: dict[str, dict[str, Tensor]]


def score_table(collection: Collection, tables: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    """The scores of a table ``(Q, D)`` of each evaluated split."""
    return means(by_query(collection, tables))


def by_query(collection: Collection, tables: Mapping[str, Tensor]) -> dict[str, dict[str, np.ndarray]]:
    """By split, then by metric, the score of each query ``(Q,)`` of a table ``(Q, D)``."""
    return {
        split: per_query(rankings(tables[split].numpy(), collection.ids), collection.splits[split].relevant)
        for split in EVALUATED
    }


def means(scores: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, dict[str, float]]:
    """The scores of each split from those of its queries."""
    return {split: {name: float(one.mean()) for name, one in found.items()} for split, found in scores.items()}


def rows_of(collection: Collection, scores: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, dict[str, Tensor]]:
    """Those scores as `Evaluation.rows`; the ``idx`` of a query is a number made of its identifier."""
    return {
        split: {
            "idx": torch.tensor([zlib.crc32(name.encode()) for name in collection.splits[split].ids]),
            **{name: torch.from_numpy(one) for name, one in found.items()},
        }
        for split, found in scores.items()
    }


def score_student(
    student: BiEncoder, batches: RetrievalDataModule, device: torch.device, who: str, precision: str = "32-true"
) -> Found:
    """The student's scores over all documents."""
    collection, size = batches.collection, batches.eval_batch_size
    vectors = encode(student, batches.documents, size, device, f"{who}: documents", precision)
    tables = {
        split: encode(student, batches.queries[split], size, device, f"{who}: {split}", precision) @ vectors.T
        for split in EVALUATED
    }
    ranked = rankings(tables[TEST].numpy(), collection.ids)
    scores = by_query(collection, tables)
    return Found(
        means(scores),
        vectors,
        ranked,
        tables[TEST],
        seconds(student, batches, vectors, device),
        rows_of(collection, scores),
    )


@torch.inference_mode()
def seconds(student: BiEncoder, batches: RetrievalDataModule, vectors: Tensor, device: torch.device) -> float:
    """The median time of a test query alone, from its tokens to its best ten documents."""
    vectors, queries = vectors.to(device), batches.queries[TEST]
    times = []
    for place in range(min(20, len(queries))):
        start = time.perf_counter()
        batch = {name: value.to(device) for name, value in queries.batch([place]).items()}
        (student.vectors(batch, "query") @ vectors.T).topk(min(10, len(vectors)))[1].tolist()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


@torch.inference_mode()
def meta_score(student: BiEncoder, batches: RetrievalDataModule, device: torch.device) -> dict[str, float]:
    """The student's score on the meta split, as a training takes it."""
    student.eval().to(device)
    found = [
        reciprocal_ranks(student(on_device)["logits"].float(), on_device)
        for batch in batches.dataloader(META)
        for on_device in [{name: value.to(device) for name, value in batch.items()}]
    ]
    return {MONITOR: float(torch.cat(found).mean())}


def unseen(collection: Collection, ranked: np.ndarray) -> dict[str, Any]:
    """The test scores over the queries none of whose relevant documents is relevant to a training query."""
    trained = {document for _, document in collection.splits[TRAIN].pairs}
    relevant = collection.splits[TEST].relevant
    rows = [i for i, grades in enumerate(relevant) if not trained & set(grades)]
    if not rows:
        return {"queries": 0}
    found = per_query(ranked[rows], [relevant[i] for i in rows])
    return {"queries": len(rows), **{name: float(values.mean()) for name, values in found.items()}}
