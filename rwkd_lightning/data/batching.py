"""Batches in an order that depends on (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Sampler

Batch = dict[str, Tensor]
Collate = Callable[[Sequence[Mapping[str, Any]]], Batch]
"""Rows to a batch."""
_BUCKET_STREAM, _META_STREAM = 31, 32  # keep apart the uses of one seed


class BucketBatchSampler(Sampler[list[int]]):
    """Shuffled batches of rows of similar length; each row once an epoch, in an order set by (seed, epoch).

    With `num_replicas` processes the batch of all of them together is cut first and dealt out after, so they see the
    rows that one process with the batch size `batch_size * num_replicas` sees. To give every process as many rows,
    the last batch may repeat up to `num_replicas - 1` rows.
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        batch_size: int,
        seed: int,
        pool_factor: int = 16,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        self.lengths, self.batch_size, self.seed = np.asarray(lengths), batch_size, seed
        self.pool_factor, self.num_replicas, self.rank = pool_factor, num_replicas, rank
        self.epoch = self.start = 0

    @property
    def sampler(self) -> BucketBatchSampler:
        """This object: Lightning looks for `set_epoch` on `batch_sampler.sampler`, never on the batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass, which is a whole one unless it is the pass that `go_to` chose."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def go_to(self, epoch: int, start: int) -> None:
        """Choose the next pass, and begin it after so many batches; the length stays that of a whole pass."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return -(-len(self.lengths) // (self.batch_size * self.num_replicas))

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch, _BUCKET_STREAM])
        size = self.batch_size * self.num_replicas
        order = rng.permutation(len(self.lengths))
        batches = buckets(order, self.lengths, size, self.pool_factor)
        for number in rng.permutation(len(batches))[self.start :]:
            batch = batches[number]
            whole = np.resize(batch, -(-len(batch) // self.num_replicas) * self.num_replicas)
            yield whole[self.rank :: self.num_replicas].tolist()


def buckets(order: np.ndarray, lengths: np.ndarray, size: int, pool_factor: int = 16) -> list[np.ndarray]:
    """Cut rows into batches of similar length: every `pool_factor` batches of `order` are sorted among themselves."""
    batches: list[np.ndarray] = []
    for start in range(0, len(order), size * pool_factor):
        pool = order[start : start + size * pool_factor]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[i : i + size] for i in range(0, len(pool), size)]
    return batches


class LengthSortedBatchSampler(Sampler[list[int]]):
    """Each row once, longest first: little padding, and a batch too big for the memory fails at once."""

    def __init__(self, lengths: Sequence[int] | np.ndarray, batch_size: int) -> None:
        self.order = np.argsort(-np.asarray(lengths), kind="stable")
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, len(self.order), self.batch_size):
            yield self.order[start : start + self.batch_size].tolist()


class MetaStream:
    """An endless stream of meta batches, a pure function of the step: there is no state to save or to lose.

    `stream[t]` holds the rows t*m to (t+1)*m of one permutation of the split after another, batches of rows of similar
    length but for the one in which two permutations meet.
    """

    def __init__(self, dataset: Any, collator: Collate, batch_size: int, seed: int) -> None:
        self.dataset, self.collator, self.batch_size, self.seed = dataset, collator, batch_size, seed
        self._cycle, self._order = -1, np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        """The number of held-out rows M."""
        return len(self.dataset)

    def rows(self, step: int) -> list[int]:
        """Return the positions of the rows of one step; IndexError for a negative step."""
        if step < 0:
            raise IndexError(f"step {step} is negative")
        places = range(step * self.batch_size, (step + 1) * self.batch_size)
        return [int(self._permutation(p // len(self.dataset))[p % len(self.dataset)]) for p in places]

    def __getitem__(self, step: int) -> Batch:
        return self.collator([self.dataset[row] for row in self.rows(step)])

    def grouped(self, count: int) -> MetaStream:
        """The same rows in batches ``count`` times as large, each of rows of similar length."""
        return MetaStream(self.dataset, self.collator, count * self.batch_size, self.seed)

    def all(self, batch_size: int) -> Iterator[Batch]:
        """Yield every row once, longest first."""
        for rows in LengthSortedBatchSampler(self.dataset.lengths, batch_size):
            yield self.collator([self.dataset[row] for row in rows])

    def _permutation(self, cycle: int) -> np.ndarray:
        if cycle != self._cycle:  # the last one is kept for speed only
            rng = np.random.default_rng([self.seed, cycle, _META_STREAM])
            order = rng.permutation(len(self.dataset))
            first = -cycle * len(order) % self.batch_size  # these fill the last batch of the cycle before
            last = first + max(len(order) - first, 0) // self.batch_size * self.batch_size
            batches = buckets(order[first:last], self.dataset.lengths, self.batch_size)
            batches = [batches[number] for number in rng.permutation(len(batches))]
            self._cycle, self._order = cycle, np.concatenate([order[:first], *batches, order[last:]])
        return self._order
