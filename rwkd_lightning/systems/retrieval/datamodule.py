"""The data module of retrieval: pairs of queries and documents, with the documents of a batch as candidates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from rwkd_lightning.data.batching import Batch, BucketBatchSampler
from rwkd_lightning.data.resumable import ResumableDataModule
from rwkd_lightning.data.visited import Visited
from rwkd_lightning.systems.retrieval.collection import META, TRAIN, Collection
from rwkd_lightning.systems.retrieval.corruption import deal_documents, deal_queries
from rwkd_lightning.systems.retrieval.pairs import Pairs, put_together
from rwkd_lightning.systems.retrieval.tokens import Texts
from rwkd_lightning.utils.errors import UserError


class RetrievalDataModule(ResumableDataModule):
    """Loaders of the train and meta splits for one student or teacher.

    Args:
        collection: with these two splits.
        tokenizer: the model's own.
        query_length, document_length: tokens of a text; what is beyond them is not read.
        negatives: by split, mined documents of each query, hardest first, ``(Q, depth)``; empty: none.
        each: mined negatives of a training row, drawn again at every visit.
        meta_each: of a held-out row, its hardest ones.
        scores: by split, the teacher's of every document for every query, ``(Q, D)``; empty: no teacher yet.
        means: of the training queries and of the documents, as of `Pairs`; empty: nothing reads them.
        label_noise: share of the training rows that get the document of another one.
        teacher_noise: share of the training rows that get the teacher's scores for the query of another one.
        by_relevance: whether the training rows have their judgement's grade as ``sample_weight``.
    """

    def __init__(
        self,
        collection: Collection,
        tokenizer: Any,
        *,
        query_length: int = 64,
        document_length: int = 128,
        batch_size: int = 32,
        eval_batch_size: int = 64,
        meta_batch_size: int = 8,
        seed: int = 0,
        num_workers: int = 0,
        negatives: Mapping[str, np.ndarray] | None = None,
        each: int = 1,
        meta_each: int = 4,
        scores: Mapping[str, Tensor] | None = None,
        means: Mapping[str, Tensor] | None = None,
        label_noise: float = 0.0,
        teacher_noise: float = 0.0,
        by_relevance: bool = False,
    ) -> None:
        super().__init__()
        self.collection, self.tokenizer, self.collator = collection, tokenizer, put_together
        self.batch_size, self.eval_batch_size, self.meta_batch_size = batch_size, eval_batch_size, meta_batch_size
        self.seed, self.num_workers = seed, num_workers
        self.negatives, self.each, self.meta_each = dict(negatives or {}), each, meta_each
        self.scores, self.means = dict(scores or {}), dict(means or {})
        self.label_noise, self.teacher_noise, self.by_relevance = label_noise, teacher_noise, by_relevance
        self.documents = Texts(collection.texts, tokenizer, document_length, "document")
        self.queries = {
            name: Texts(queries.texts, tokenizer, query_length, "query") for name, queries in collection.splits.items()
        }
        self.made: dict[str, Pairs] = {}

    def rows(self, split: str) -> Pairs:
        if split not in (TRAIN, META):
            raise UserError(f"unknown split {split!r}; pairs are made of {TRAIN} and {META}")
        if split not in self.made:
            self.made[split] = self.make(split)
        return self.made[split]

    def make(self, split: str) -> Pairs:
        """The rows of a split."""
        queries = self.collection.splits[split]
        pairs, extras, taught = queries.pairs, {}, None
        if split == TRAIN:
            grades = torch.tensor([queries.relevant[query][document] for query, document in pairs])
            pairs, flipped = deal_documents(queries, pairs, self.label_noise, self.seed)
            taught, corrupted = deal_queries(pairs, self.teacher_noise, self.seed)
            extras = {"label_flipped": torch.from_numpy(flipped), "teacher_corrupted": torch.from_numpy(corrupted)}
            if self.by_relevance:
                extras["sample_weight"] = grades
        return Pairs(
            queries,
            pairs,
            {"query": self.queries[split], "document": self.documents},
            negatives=self.negatives.get(split),
            each=self.each if split == TRAIN else self.meta_each,
            fixed=split == META,
            seed=self.seed,
            scores=self.scores.get(split),
            taught=taught,
            means=self.means if split == TRAIN else None,
            extras=extras,
            same=self.collection.stand_ins(),
        )

    def _loader(self, rows: Any, sampler: Any) -> DataLoader[Batch]:
        return super()._loader(
            rows, Visited(sampler, len(rows)) if isinstance(sampler, BucketBatchSampler) else sampler
        )

    @property
    def train_flags(self) -> dict[str, Tensor]:
        """Which training rows are corrupted, ``(N,)`` each."""
        return {name: values for name, values in self.rows(TRAIN).extras.items() if values.dtype == torch.bool}

    @property
    def train_idx(self) -> Tensor:
        """The place ``(N,)`` of each row's query among the training queries."""
        return torch.from_numpy(self.rows(TRAIN).queries)
