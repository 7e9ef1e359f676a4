"""The training rows for a peer: in the tokens of both models, in its own order or in our batches of rows of similar
length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from kd_job import BATCH, LENGTH, Job
from torch import Tensor
from torch.utils.data import Dataset, Sampler, default_collate
from transformers import DataCollatorWithPadding

from rwkd_lightning.data.batching import BucketBatchSampler
from rwkd_lightning.systems.text.data.datamodule import DistillationDataModule
from rwkd_lightning.systems.text.models import Classifier, load_tokenizer

Batch = dict[str, Tensor]
Tokens = dict[str, Any]


class Side:
    """The training rows in one model's tokens, and how they become a batch."""

    def __init__(
        self, rows: Sequence[Tokens] | Dataset[Tokens], collate: Callable[[list[Tokens]], Batch], inputs: list[str]
    ) -> None:
        self.rows, self._collate, self.inputs = rows, collate, inputs

    def collate(self, rows: list[Tokens]) -> Batch:
        """The model's inputs, each ``(B, T)``."""
        batch = self._collate(rows)
        return {name: batch[name] for name in self.inputs if name in batch}


def tokenized(job: Job, tokenizer: Any, model: Classifier, pad_to_max: bool) -> Side:
    """As the examples of ``transformers`` do it: padded to 128 tokens at once, or to the longest row of each batch."""
    encoded = tokenizer(*job.texts(), truncation=True, max_length=LENGTH, padding="max_length" if pad_to_max else False)
    columns = {name: torch.tensor(values) if pad_to_max else values for name, values in encoded.items()}
    rows = [{name: values[i] for name, values in columns.items()} for i in range(len(job.labels()))]
    return Side(rows, default_collate if pad_to_max else DataCollatorWithPadding(tokenizer), model.inputs)


class Rows(Dataset[tuple[dict[str, Tokens], int]]):
    """Training rows for a peer: the tokens of both models, and the label."""

    def __init__(self, student: Side, teacher: Side, labels: list[int]) -> None:
        self.student, self.teacher, self.labels = student, teacher, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[dict[str, Tokens], int]:
        return {"student": self.student.rows[row], "teacher": self.teacher.rows[row]}, self.labels[row]

    def collate(self, samples: list[dict[str, Tokens]]) -> dict[str, Batch]:
        """``student`` and ``teacher``, the inputs of each."""
        return {
            "student": self.student.collate([sample["student"] for sample in samples]),
            "teacher": self.teacher.collate([sample["teacher"] for sample in samples]),
        }


class Reshuffled(Sampler[list[int]]):
    """Our batches of rows of similar length, in another order each time they are asked for."""

    def __init__(self, batches: BucketBatchSampler) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.batches
        self.batches.set_epoch(self.batches.epoch + 1)


def shuffled(job: Job, teacher: Classifier, pad_to_max: bool) -> Rows:
    """Rows for an ordinary loader with ``shuffle=True``."""
    pairs = ((job.tokenizer, job.student), (load_tokenizer(job.teacher_path), teacher))
    return Rows(*(tokenized(job, tokenizer, model, pad_to_max) for tokenizer, model in pairs), job.labels())


def of_similar_length(job: Job, teacher: Classifier) -> tuple[Rows, Reshuffled]:
    """Rows and batches of our data module, by the lengths of the student's tokens."""
    modules = [
        DistillationDataModule(job.data, tokenizer, max_length=LENGTH, batch_size=BATCH, seed=job.seed)
        for tokenizer in (job.tokenizer, load_tokenizer(job.teacher_path))
    ]
    sides = [
        Side(module.encoded("train"), module.collator, model.inputs)
        for module, model in zip(modules, (job.student, teacher), strict=True)
    ]
    return Rows(*sides, job.labels()), Reshuffled(modules[0].train_dataloader().batch_sampler)
