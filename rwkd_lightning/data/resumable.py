"""Loaders whose order depends on (seed, epoch) alone: a resume needs the epoch and the place in it, no more."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from rwkd_lightning.data.batching import Batch, BucketBatchSampler, Collate, LengthSortedBatchSampler, MetaStream


class Rows(Protocol):
    """Samples with labels, extra columns and the lengths used for bucketing (equal lengths: random order), N each."""

    lengths: np.ndarray
    labels: Tensor
    extras: Mapping[str, Tensor]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...


class ResumableDataModule(lightning.LightningDataModule, ABC):
    """The loaders of a training split, of the meta split and of whole splits for scoring.

    Batches deal rows to processes themselves, so a distributed Trainer needs `use_distributed_sampler=False`.
    """

    train_split: str = "train"
    collator: Collate
    batch_size: int
    eval_batch_size: int
    meta_batch_size: int
    seed: int
    num_workers: int
    _begin: tuple[int, int] = (0, 0)

    @abstractmethod
    def rows(self, split: str) -> Any:
        """The split as a map-style dataset with what `Rows` says; UserError for one that there is not."""

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return the shuffled, length-bucketed loader of the training split."""
        train = self.rows(self.train_split)
        replicas, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        sampler = BucketBatchSampler(train.lengths, self.batch_size, self.seed, num_replicas=replicas, rank=rank)
        sampler.go_to(*self._begin)
        return self._loader(train, sampler)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return the loader of the meta split, by which a checkpoint is chosen."""
        return self.dataloader("meta")

    def dataloader(self, split: str) -> DataLoader[Batch]:
        """Return each row of `split` once, longest first, on every process; `index` tells a row's place."""
        rows = self.rows(split)
        return self._loader(rows, LengthSortedBatchSampler(rows.lengths, self.eval_batch_size))

    @property
    def meta_stream(self) -> MetaStream:
        """The endless stream of meta batches."""
        return MetaStream(self.rows("meta"), self.collator, self.meta_batch_size, self.seed)

    @property
    def train_size(self) -> int:
        """The number of training rows N."""
        return len(self.rows(self.train_split))

    @property
    def train_labels(self) -> Tensor:
        """The training labels `(N,)` as trained on, so with those that a corruption has flipped."""
        labels: Tensor = self.rows(self.train_split).labels
        return labels

    @property
    @abstractmethod
    def train_idx(self) -> Tensor:
        """The idx `(N,)` of the training rows in the data's source."""

    @property
    def train_flags(self) -> dict[str, Tensor]:
        """Columns of the training rows that the training does not use, `(N,)` each by name: flags of corruption."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch and the place in it of the next training batch: all there is to an exact resume."""
        if self.trainer is None:
            return {"begin": self._begin}
        done, an_epoch = self.trainer.fit_loop.total_batch_idx + 1, int(self.trainer.num_training_batches)
        return {"begin": divmod(done, an_epoch)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next `train_dataloader` begin where a checkpoint was written."""
        self._begin = tuple(state_dict["begin"])

    def _loader(self, rows: Any, sampler: Any) -> DataLoader[Batch]:
        # Its own generator: else each pass over any loader would advance the global one, which drives dropout.
        # Lightning copies a batch to the GPU without waiting, which the device can only do from pinned memory.
        generator = torch.Generator().manual_seed(self.seed)
        return DataLoader(
            rows,
            batch_sampler=sampler,
            collate_fn=self.collator,
            num_workers=self.num_workers,
            generator=generator,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
        )
