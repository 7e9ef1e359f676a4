"""Rows numbered by visit, for what is drawn anew at each."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import Sampler

from rwkd_lightning.data.batching import BucketBatchSampler


class Visited(Sampler[list[int]]):
    """The batches of another sampler, each row numbered by epoch, too: row + N · epoch.

    So what is drawn for a row at a visit depends on (seed, epoch, row) alone, also in the loader's own processes.
    """

    def __init__(self, batches: BucketBatchSampler, size: int) -> None:
        self.batches, self.size = batches, size

    @property
    def sampler(self) -> BucketBatchSampler:
        """The other one: Lightning calls its ``set_epoch``."""
        return self.batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        for rows in self.batches:
            yield [row + self.size * self.batches.epoch for row in rows]
