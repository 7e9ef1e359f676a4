"""Loaders of samples that are rows of tensors: numbers, pictures, embeddings; nothing to tokenize, nothing to pad."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from rwkd_lightning.data.batching import Batch
from rwkd_lightning.data.resumable import ResumableDataModule
from rwkd_lightning.utils.errors import UserError


class TensorRows(Dataset[Any]):
    """N samples; an item is only a place, as batches are gathered at once.

    Args:
        columns: ``labels`` ``(N,)`` and others ``(N, ...)`` by name: the model's inputs, ``teacher_logits`` ``(N, C)``,
            flags.

    Raises:
        UserError: if there are no labels, or the columns differ in length.
    """

    def __init__(self, columns: Mapping[str, Tensor]) -> None:
        sizes = {name: len(column) for name, column in columns.items()}
        if "labels" not in sizes or len(set(sizes.values())) != 1:
            raise UserError(f"a split needs 'labels' and columns of one length; these have {sizes}")
        self.columns = dict(columns)
        self.labels = columns["labels"]
        self.extras = {name: column for name, column in columns.items() if name != "labels"}
        self.lengths: np.ndarray = np.zeros(
            len(self.labels), dtype=np.int64
        )  # nothing is padded, so no order saves anything

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"rows": self, "place": range(len(self))[index]}


def gather(items: Sequence[Mapping[str, Any]]) -> Batch:
    """The batch of these items of one `TensorRows`: ``index`` ``(B,)`` and every column ``(B, ...)``."""
    rows: TensorRows = items[0]["rows"]
    at = torch.tensor([item["place"] for item in items])
    return {"index": at, **{name: column[at] for name, column in rows.columns.items()}}


class TensorDataModule(ResumableDataModule):
    """Loaders of splits that are held in memory.

    Args:
        splits: the columns of ``train``, ``meta`` and others by name, see `TensorRows`.
        batch_size, eval_batch_size, meta_batch_size: samples.
        seed: of the order.
        num_workers: of the loaders.
    """

    def __init__(
        self,
        splits: Mapping[str, Mapping[str, Tensor]],
        batch_size: int = 32,
        eval_batch_size: int = 256,
        meta_batch_size: int = 32,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.splits = {name: TensorRows(columns) for name, columns in splits.items()}
        self.collator, self.seed, self.num_workers = gather, seed, num_workers
        self.batch_size, self.eval_batch_size, self.meta_batch_size = batch_size, eval_batch_size, meta_batch_size

    def rows(self, split: str) -> TensorRows:
        if split not in self.splits:
            raise UserError(f"unknown split {split!r}; known are {sorted(self.splits)}")
        return self.splits[split]

    @property
    def train_idx(self) -> Tensor:
        """The number ``(N,)`` of each training sample."""
        return torch.arange(self.train_size)
