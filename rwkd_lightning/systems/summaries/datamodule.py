"""The data module of summarisation: documents, the tokens of their summaries, and what the teacher says of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rwkd_lightning.data.batching import Batch, BucketBatchSampler
from rwkd_lightning.data.resumable import ResumableDataModule
from rwkd_lightning.data.visited import Visited
from rwkd_lightning.systems.summaries.data import META, TRAIN, Split
from rwkd_lightning.systems.summaries.noise import SourceNoise
from rwkd_lightning.systems.summaries.summariser import shifted
from rwkd_lightning.systems.summaries.texts import encoded, padded
from rwkd_lightning.utils.errors import UserError

CLEAN = SourceNoise()


class Pairs(Dataset[Any]):
    """N documents with the tokens of their targets; an item is only its place and its visit.

    Args:
        documents, targets: tokens of each.
        start, pad: tokens that a decoder begins with, and that fill up.
        noise: of the documents.
        taught: of the teacher, all tokens of the targets one after the other, by name.
        extras: columns ``(N,)`` by name.
        clean: documents as a teacher reads them that runs along; None: there is none.
    """

    def __init__(
        self,
        documents: Sequence[np.ndarray],
        targets: Sequence[np.ndarray],
        start: int,
        pad: int,
        noise: SourceNoise = CLEAN,
        taught: Mapping[str, Tensor] | None = None,
        extras: Mapping[str, Tensor] | None = None,
        clean: Sequence[np.ndarray] | None = None,
    ) -> None:
        self.clean = clean
        self.documents, self.targets, self.start, self.pad = documents, targets, start, pad
        self.noise, self.taught = noise, dict(taught or {})
        self.sizes = torch.tensor([len(ids) for ids in targets])
        self.begins = torch.cat([torch.zeros(1, dtype=torch.long), self.sizes.cumsum(0)])
        self.extras = {**(extras or {}), "length_share": self.sizes / self.sizes.double().mean().float()}
        self.lengths = together(np.array([len(ids) for ids in documents]), self.sizes.numpy())

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, number: int) -> dict[str, Any]:
        visit, place = divmod(number, len(self))
        return {"pairs": self, "place": place, "visit": visit}

    @property
    def labels(self) -> Tensor:
        """The targets' tokens ``(N, W)``, −1 beyond."""
        return padded(self.targets, -1)

    @property
    def read(self) -> Tensor:
        """Where there is a token, ``(N, W)``."""
        return self.labels >= 0

    def batch(self, places: Sequence[int], visits: Sequence[int]) -> Batch:
        """The rows at these places: ``labels`` ``(B, T)``, −1 beyond a target's end, ``input_ids`` and
        ``attention_mask`` ``(B, S)``, ``decoder_input_ids`` ``(B, T)``, ``length_share`` ``(B,)``, a target's length by
        the mean one of the split; of the teacher ``teacher_<name>`` ``(B, T, ...)``.
        """
        index = torch.tensor(places)
        documents = [self.noise(self.documents[p], v, p) for p, v in zip(places, visits, strict=True)]
        labels = padded([self.targets[place] for place in places], -1)
        found = {
            "index": index,
            "visit": torch.tensor(visits),
            "labels": labels,
            "input_ids": padded(documents, self.pad),
            "attention_mask": padded([np.ones_like(ids) for ids in documents], 0),
            "decoder_input_ids": shifted(labels, self.start, self.pad),
            **{name: values[index] for name, values in self.extras.items()},
        }
        if self.clean is not None:
            clean = [self.clean[place] for place in places]
            found["clean_ids"] = padded(clean, self.pad)
            found["clean_mask"] = padded([np.ones_like(ids) for ids in clean], 0)
        places_of_tokens = self.begins[index][:, None] + torch.arange(labels.shape[1])
        read = labels >= 0
        for name, values in self.taught.items():
            filled = values.new_zeros((*labels.shape, *values.shape[1:]), dtype=kept_as(values))
            filled[read] = values[places_of_tokens[read]].to(filled.dtype)
            found[f"teacher_{name}"] = filled
        return found


def together(documents: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """A number ``(N,)`` by which rows of similar lengths of both sorts stand together: three bands of targets' lengths,
    documents by theirs within a band, up and down in turn. The padding costs less than with documents' lengths alone.
    """
    band = np.searchsorted(np.percentile(targets, [50, 85]), targets)
    longest = int(documents.max()) + 1
    return band * longest + np.where(band % 2, longest - 1 - documents, documents)


def kept_as(values: Tensor) -> torch.dtype:
    """The type in a batch of what the cache keeps in half the bytes."""
    return torch.float32 if values.is_floating_point() else torch.long


def put_together(items: Sequence[Mapping[str, Any]]) -> Batch:
    """The batch of these items of one `Pairs`."""
    pairs: Pairs = items[0]["pairs"]
    return pairs.batch([item["place"] for item in items], [item["visit"] for item in items])


class SummaryDataModule(ResumableDataModule):
    """Loaders for one student or teacher.

    Args:
        splits: documents with the summaries that they are trained to have.
        tokenizer: the model's own.
        start: the token that its decoder begins with.
        document_length, summary_length: tokens of a text; what is beyond them is not read.
        noise: of the training documents.
        taught: what the teacher says, by split and name, all tokens one after the other.
        extras: columns of the training rows by name, flags of what is corrupted among them.
        clean: the training documents as a teacher reads them that runs along; None: there is none.
    """

    def __init__(
        self,
        splits: Mapping[str, Split],
        tokenizer: Any,
        start: int,
        *,
        document_length: int = 128,
        summary_length: int = 48,
        batch_size: int = 32,
        eval_batch_size: int = 64,
        meta_batch_size: int = 8,
        seed: int = 0,
        num_workers: int = 0,
        noise: SourceNoise = CLEAN,
        taught: Mapping[str, Mapping[str, Tensor]] | None = None,
        extras: Mapping[str, Tensor] | None = None,
        clean: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.clean = clean
        self.splits, self.tokenizer, self.start, self.collator = dict(splits), tokenizer, start, put_together
        self.document_length, self.summary_length = document_length, summary_length
        self.batch_size, self.eval_batch_size, self.meta_batch_size = batch_size, eval_batch_size, meta_batch_size
        self.seed, self.num_workers, self.noise = seed, num_workers, noise
        self.taught, self.extras = dict(taught or {}), dict(extras or {})
        self.made: dict[str, Pairs] = {}

    def rows(self, split: str) -> Pairs:
        if split not in self.splits:
            raise UserError(f"unknown split {split!r}; known are {', '.join(self.splits)}")
        if split not in self.made:
            self.made[split] = self.make(split)
        return self.made[split]

    def make(self, split: str) -> Pairs:
        """The rows of a split."""
        rows, train = self.splits[split], split == TRAIN
        return Pairs(
            encoded(rows.documents, self.tokenizer, self.document_length),
            encoded(rows.summaries, self.tokenizer, self.summary_length, target=True),
            self.start,
            self.tokenizer.pad_token_id,
            self.noise if train else CLEAN,
            self.taught.get(split),
            self.extras if train else None,
            encoded(self.clean, self.tokenizer, self.document_length) if train and self.clean is not None else None,
        )

    def _loader(self, rows: Any, sampler: Any) -> DataLoader[Batch]:
        visited = Visited(sampler, len(rows)) if isinstance(sampler, BucketBatchSampler) else sampler
        return super()._loader(rows, visited)

    @property
    def train_flags(self) -> dict[str, Tensor]:
        """Which training rows are corrupted, ``(N,)`` each."""
        return {name: self.extras[name] for name in ("label_flipped", "teacher_corrupted") if name in self.extras}

    @property
    def train_idx(self) -> Tensor:
        """The number ``(N,)`` of each training row in the source."""
        return torch.tensor(self.splits[TRAIN].idx)


NEEDED = (TRAIN, META)
"""Splits of which the teacher's answers are kept."""
