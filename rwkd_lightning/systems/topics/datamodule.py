"""The documents' loaders: sentence embeddings, word counts and what the teacher made of each document."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from rwkd_lightning.data.batching import Batch
from rwkd_lightning.data.resumable import ResumableDataModule
from rwkd_lightning.systems.topics.corpus import Corpus
from rwkd_lightning.systems.topics.corruption import FLAG
from rwkd_lightning.utils.errors import UserError


class Documents(Dataset[Any]):
    """A part of a corpus, N documents in their order; an item is only a place, as batches are made at once."""

    def __init__(self, corpus: Corpus, rows: np.ndarray, embeddings: Tensor, states: Mapping[str, Tensor]) -> None:
        self.chosen = rows
        self.counts = corpus.counts[rows]
        self.embeddings = embeddings[rows]
        self.extras = {name: values[rows] for name, values in states.items()}
        self.labels = (
            torch.from_numpy(corpus.labels[rows]) if corpus.labels is not None else torch.full((len(rows),), -1)
        )
        self.idx = torch.from_numpy(corpus.idx[rows])
        self.lengths: np.ndarray = np.zeros(len(rows), dtype=np.int64)  # nothing is padded, so no order saves anything

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"documents": self, "place": range(len(self))[index]}

    def batch(self, places: Sequence[int]) -> Batch:
        """index, idx, labels `(B,)`, embeddings `(B, E)`, counts `(B, V)` and the teacher's states."""
        at = torch.as_tensor(places, dtype=torch.long)
        counts = torch.from_numpy(self.counts[np.asarray(places)].toarray())
        return {
            "index": at,
            "idx": self.idx[at],
            "labels": self.labels[at],
            "embeddings": self.embeddings[at],
            "counts": counts,
            **{name: values[at] for name, values in self.extras.items()},
        }


def put_together(items: Sequence[Mapping[str, Any]]) -> Batch:
    """The batch of these items of one `Documents`."""
    documents: Documents = items[0]["documents"]
    return documents.batch([item["place"] for item in items])


def check_batches(documents: int, batch_size: int, setting: str = "data.batch_size", processes: int = 1) -> None:
    """Raise UserError for a batch size that leaves one document alone, which batch normalisation cannot take.

    Of the documents that are left for the last batch each process gets its share.
    """

    def fits(size: int) -> bool:
        left = documents % (size * processes)
        return size > 1 and (left == 0 or left > processes)

    if not fits(batch_size):
        refuse(setting, batch_size, next(size for size in itertools.count(batch_size + 1) if fits(size)), processes)


def check_meta_batch(batch_size: int, processes: int = 1) -> None:
    """Raise UserError where a process has one held-out document alone; they are dealt out where that goes evenly."""
    if (batch_size if batch_size % processes else batch_size // processes) < 2:
        refuse("meta.batch_size", batch_size, 2 * processes, processes)


def refuse(setting: str, value: int, instead: int, processes: int) -> None:
    """Say that a batch has one document, and what would do."""
    where = f" on one of {processes} processes" if processes > 1 else ""
    raise UserError(
        f"{setting}={value} leaves one document alone in a batch{where}, and batch normalisation needs two; use "
        f"{setting}={instead}"
    )


class TopicDataModule(ResumableDataModule):
    """Loaders of a corpus that is cut into train, meta and, where it has one, test.

    Args:
        corpus: the documents.
        parts: numbers of the documents of each part, by its name (``corpus.split``).
        embeddings: `(N, E)` of all of them.
        states: what the teacher made of all of them by name (``teacher_mu``, ...), `(N, ...)`; empty for none.
        batch_size, eval_batch_size, meta_batch_size: documents.
        seed: of the order.
        num_workers: of the loaders.

    Raises:
        UserError: as ``check_batches`` and ``check_meta_batch``.
    """

    def __init__(
        self,
        corpus: Corpus,
        parts: Mapping[str, np.ndarray],
        embeddings: Tensor,
        states: Mapping[str, Tensor] | None = None,
        *,
        batch_size: int = 64,
        eval_batch_size: int = 256,
        meta_batch_size: int = 64,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        check_batches(len(parts["train"]), batch_size)
        check_meta_batch(meta_batch_size)
        self.corpus, self.collator, self.seed, self.num_workers = corpus, put_together, seed, num_workers
        self.batch_size, self.eval_batch_size, self.meta_batch_size = batch_size, eval_batch_size, meta_batch_size
        self.documents = {name: Documents(corpus, rows, embeddings, states or {}) for name, rows in parts.items()}

    def rows(self, split: str) -> Documents:
        if split not in self.documents:
            raise UserError(
                f"unknown part {split!r} of corpus {self.corpus.name!r}; known are {sorted(self.documents)}"
            )
        return self.documents[split]

    @property
    def train_idx(self) -> Tensor:
        """The idx `(N,)` of the training documents in their source."""
        return self.rows("train").idx

    @property
    def train_flags(self) -> dict[str, Tensor]:
        """Words of each training document, and where a corruption was set its flags, `(N,)` each."""
        train = self.rows("train")
        flags = {name: values for name, values in train.extras.items() if name == FLAG}
        return {"words": torch.from_numpy(np.asarray(train.counts.sum(1)).ravel().astype(np.int64)), **flags}
