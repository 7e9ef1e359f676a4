"""The rows of a split: a query with one document relevant to it, compared with all documents of its batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from rwkd_lightning.systems.retrieval.collection import Queries
from rwkd_lightning.systems.retrieval.tokens import Texts

NEGATIVES = 41  # of the seeds' streams


class Pairs(Dataset[Any]):
    """N pairs; an item is only its place and its visit, as the documents of a batch are put together at once.

    Args:
        queries: of the split.
        pairs: places of query and document of each row.
        texts: of queries and documents.
        negatives: mined documents of each query, hardest first, ``(Q, depth)``; None: none.
        each: negatives of a row.
        fixed: True: the hardest ones at every visit; False: drawn again from all of them at each one.
        seed: of the draws.
        scores: the teacher's of every document for every query, ``(Q, D)``; None: there is none yet.
        taught: place ``(N,)`` of the query whose scores a row gets; None: its own.
        extras: columns ``(N,)`` by name.
        means: the means of the teacher's token vectors, of each ``query`` ``(Q, d)`` and ``document`` ``(D, d)``;
            empty: nothing reads them.
        same: of each document of the collection the place of the one that stands for it, ``(D,)``, where several have
            the same text; None: each stands for itself.
    """

    def __init__(
        self,
        queries: Queries,
        pairs: Sequence[tuple[int, int]],
        texts: Mapping[str, Texts],
        *,
        negatives: np.ndarray | None = None,
        each: int = 1,
        fixed: bool = False,
        seed: int = 0,
        scores: Tensor | None = None,
        taught: np.ndarray | None = None,
        extras: Mapping[str, Tensor] | None = None,
        means: Mapping[str, Tensor] | None = None,
        same: np.ndarray | None = None,
    ) -> None:
        self.means = dict(means or {})
        self.texts, self.each, self.fixed, self.seed = texts, each, fixed, seed
        self.queries, documents = np.asarray(pairs, dtype=np.int64).reshape(-1, 2).T
        self.documents = documents if same is None else same[documents]
        self.negatives = negatives if negatives is None or same is None else same[negatives]
        self.relevant = relevant_to_texts(queries, self.queries, self.documents)
        self.scores, self.taught = scores, self.queries if taught is None else taught
        self.extras = dict(extras or {})
        self.labels = torch.from_numpy(self.documents)
        self.lengths: np.ndarray = np.zeros(len(self.queries), dtype=np.int64)  # in random order

    def __len__(self) -> int:
        return len(self.queries)

    def __getitem__(self, number: int) -> dict[str, Any]:
        visit, place = divmod(number, len(self))
        return {"pairs": self, "place": place, "visit": visit}

    def drawn(self, place: int, visit: int) -> np.ndarray:
        """The negatives of a row at one visit."""
        assert self.negatives is not None
        mined: np.ndarray = self.negatives[self.queries[place]]
        if self.fixed:
            return mined[: self.each]
        chosen = np.random.default_rng([self.seed, visit, place, NEGATIVES]).permutation(len(mined))[: self.each]
        return mined[chosen]

    def batch(self, places: Sequence[int], visits: Sequence[int]) -> dict[str, Tensor]:
        """The rows at these places, and the U documents of all of them, each once.

        ``labels`` ``(B,)`` is the column of a row's own document; ``known`` ``(B, U)`` is true where another one is
        relevant to its query; ``mined`` ``(B, U)`` where the document is one of the row's own negatives; ``documents``
        ``(U,)`` are their places in the collection; ``teacher_logits`` ``(B, U)`` what the teacher says of them.
        """
        at = np.asarray(places)
        own = self.documents[at]
        drawn = [] if self.negatives is None else [self.drawn(p, v) for p, v in zip(places, visits, strict=True)]
        documents = np.unique(np.concatenate([own, *drawn]))
        known, mined = np.zeros((2, len(at), len(documents)), dtype=bool)
        for row, query in enumerate(self.queries[at]):
            known[row] = np.isin(documents, list(self.relevant[query]))
            if drawn:
                mined[row] = np.isin(documents, drawn[row]) & ~known[row]
        labels = np.searchsorted(documents, own)
        known[np.arange(len(at)), labels] = False
        index = torch.from_numpy(at)
        batch = {
            "index": index,
            "labels": torch.from_numpy(labels),
            "known": torch.from_numpy(known),
            "mined": torch.from_numpy(mined),
            "documents": torch.from_numpy(documents),
            **self.texts["query"].batch(self.queries[at]),
            **self.texts["document"].batch(documents),
            **{name: values[index] for name, values in self.extras.items()},
        }
        if self.means:
            batch["teacher_query_vectors"] = self.means["query"][torch.from_numpy(self.taught[at])]
            batch["teacher_document_vectors"] = self.means["document"][torch.from_numpy(own)]
        if self.scores is not None:
            batch["teacher_logits"] = self.scores[torch.from_numpy(self.taught[at])][:, batch["documents"]]
        return batch


def relevant_to_texts(queries: Queries, rows: np.ndarray, documents: np.ndarray) -> list[set[int]]:
    """For each query the documents of all rows whose query has the same text."""
    by_text: dict[str, set[int]] = {text: set() for text in queries.texts}
    for query, document in zip(rows, documents, strict=True):
        by_text[queries.texts[query]].add(int(document))
    return [by_text[text] for text in queries.texts]


def put_together(items: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """The batch of these items of one `Pairs`."""
    pairs: Pairs = items[0]["pairs"]
    return pairs.batch([item["place"] for item in items], [item["visit"] for item in items])
