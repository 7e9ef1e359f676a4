"""From token ids to padded batches, in an order that depends on (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from rwkd_lightning.utils.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

Batch = dict[str, Tensor]
Collate = Callable[[Sequence[Mapping[str, Any]]], Batch]
"""Rows to a batch."""
_RESERVED = {"input_ids", "token_type_ids", "attention_mask", "label", "labels", "index"}
_BUCKET_STREAM, _META_STREAM = 31, 32  # keep apart the uses of one seed


class EncodedSplit(Dataset[dict[str, Any]]):
    """A split of N rows as a map-style dataset, with labels `(N,)` and extra per-row tensors `(N, ...)`."""

    def __init__(self, encoded: pa.Table, labels: Tensor, extras: Mapping[str, Tensor] | None = None) -> None:
        """Take the table of `encode`; ValueError where a tensor has not N rows or an extra has another field's name."""
        self.labels, self.extras = labels, dict(extras or {})
        for key, value in {"label": labels, **self.extras}.items():
            if len(value) != len(encoded):
                raise ValueError(f"{key!r} has {len(value)} rows, the split has {len(encoded)}")
        if clash := _RESERVED & set(self.extras):
            raise ValueError(f"extras may not be named {sorted(clash)}")
        # One flat array a column, since reading a row of the Arrow table costs more than padding it. A view: where the
        # table is a mapped file, all processes share its pages, and the view keeps them mapped.
        whole = encoded.combine_chunks()  # the table's copies nothing that is in one chunk, a column's would
        lists = {key: whole[key].chunk(0) for key in whole.column_names}
        self.tokens: dict[str, np.ndarray] = {key: rows.flatten().to_numpy() for key, rows in lists.items()}
        offsets: np.ndarray = lists["input_ids"].offsets.to_numpy()
        self.offsets = offsets - offsets[0] if offsets[0] else offsets  # of rows cut out of more, `flatten` gives theirs only
        self.lengths: np.ndarray = np.diff(offsets)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        extras = {key: value[index] for key, value in self.extras.items()}
        tokens = {key: flat[self.offsets[index] : self.offsets[index + 1]] for key, flat in self.tokens.items()}
        return {**tokens, "label": self.labels[index], "index": index, **extras}


class Collator:
    """Pads rows to the longest of the batch, on the tokenizer's side; UserError without a padding token."""

    def __init__(self, tokenizer: Any) -> None:
        if tokenizer.pad_token_id is None:
            raise UserError(f"the tokenizer {tokenizer.name_or_path!r} has no padding token; set tokenizer.pad_token")
        self.fill = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
        self.left = tokenizer.padding_side == "left"

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Return input_ids, attention_mask (and token_type_ids) `(B, T)`, labels and index `(B,)`, and the extras."""
        batch = {key: self._pad([r[key] for r in rows], fill) for key, fill in self.fill.items() if key in rows[0]}
        batch["attention_mask"] = self._pad([np.ones_like(row["input_ids"]) for row in rows], 0)
        batch["labels"] = torch.stack([row["label"] for row in rows])
        batch["index"] = torch.tensor([row["index"] for row in rows], dtype=torch.long)
        for key in rows[0]:
            if key not in _RESERVED:
                batch[key] = torch.stack([row[key] for row in rows])
        return batch

    def _pad(self, values: list[np.ndarray], fill: int) -> Tensor:
        width = max(map(len, values))
        padded = np.full((len(values), width), fill, dtype=np.int64)
        for row, value in zip(padded, values, strict=True):
            row[width - len(value) if self.left else 0 :][: len(value)] = value
        return torch.from_numpy(padded)


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

    `stream[t]` holds the rows t*m to (t+1)*m of one permutation of the split after another, batches of rows of similar length
    but for the one in which two permutations meet.
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
