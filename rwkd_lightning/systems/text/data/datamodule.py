"""The data module: encoded splits, corruptions, cached teacher logits and their loaders."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from rwkd_lightning.cache.store import Store
from rwkd_lightning.data.batching import Batch
from rwkd_lightning.data.resumable import ResumableDataModule
from rwkd_lightning.systems.text.data.collate import Collator, EncodedSplit
from rwkd_lightning.systems.text.data.corruption import choose_rows, flip_labels, flip_meta_labels, roll_teacher
from rwkd_lightning.systems.text.data.encoding import encode, encode_kept, tokenizer_digest
from rwkd_lightning.systems.text.data.task import TaskData, column
from rwkd_lightning.utils.errors import UserError


class DistillationDataModule(ResumableDataModule):
    """Loaders for one student or teacher: shuffled `train_split`, meta stream, and sequential passes for scoring.

    `teacher_logits` maps splits to logits `(N, C)` in the order of the split, `teacher_known` splits to flags `(N,)`,
    False in rows of which the teacher says nothing, if there are any, and `teacher_states` names to other tensors
    of the teacher `(N, ...)` for the rows of `train_split`. The corruptions `label_noise` and `teacher_noise` corrupt
    `train_split` only; `meta_noise` flips labels of the meta split, for the meta step and for the choice of a
    checkpoint. Batches deal rows to processes themselves, so a distributed Trainer needs
    `use_distributed_sampler=False`. With a `store`, tokenized text is kept there and read from there. UserError for a
    setting out of range or logits of another shape.
    """

    def __init__(
        self,
        data: TaskData,
        tokenizer: Any,
        *,
        max_length: int = 128,
        overflow: str = "truncate",
        stride: int | None = None,
        batch_size: int = 32,
        eval_batch_size: int = 64,
        meta_batch_size: int = 32,
        seed: int = 0,
        label_noise: float = 0.0,
        teacher_noise: float = 0.0,
        meta_noise: float = 0.0,
        label_noise_kind: str = "uniform",
        teacher_logits: Mapping[str, Tensor] | None = None,
        teacher_known: Mapping[str, Tensor] | None = None,
        teacher_states: Mapping[str, Tensor] | None = None,
        train_split: str = "train",
        num_workers: int = 0,
        store: Store | None = None,
    ) -> None:
        super().__init__()
        sizes = {"batch_size": batch_size, "eval_batch_size": eval_batch_size, "meta_batch_size": meta_batch_size}
        for lowest, settings in ((1, sizes), (0, {"seed": seed, "num_workers": num_workers})):
            for name, value in settings.items():
                if value < lowest:
                    raise UserError(f"data.{name} is {value}; give {lowest} or more")
        for split in (train_split, *(teacher_logits or {})):
            if split not in data.splits:
                raise UserError(f"unknown split {split!r} of task {data.task.name!r}; known are {sorted(data.splits)}")
        if teacher_noise and train_split not in (teacher_logits or {}):
            raise UserError(
                f"data.teacher_noise={teacher_noise} needs teacher logits of split {train_split!r}; compute them "
                "first, or set data.teacher_noise=0"
            )
        self.data, self.task, self.tokenizer, self.max_length = data, data.task, tokenizer, max_length
        self.overflow, self.stride = overflow, stride
        self.batch_size, self.eval_batch_size, self.meta_batch_size = batch_size, eval_batch_size, meta_batch_size
        self.seed, self.label_noise, self.teacher_noise, self.meta_noise = seed, label_noise, teacher_noise, meta_noise
        self.label_noise_kind = label_noise_kind
        self.train_split, self.num_workers, self.store = train_split, num_workers, store
        self.teacher_logits = {split: self._checked(split, x) for split, x in (teacher_logits or {}).items()}
        self.teacher_known, self.teacher_states = dict(teacher_known or {}), dict(teacher_states or {})
        self.collator = Collator(tokenizer, max_length if overflow == "windows" else None)
        self._encoded: dict[str, EncodedSplit] = {}
        self._tokenizer_state: str | None = None

    def setup(self, stage: str | None = None) -> None:
        """Encode the training, meta and evaluation splits, once; for a Trainer each when its loader is asked for."""
        if stage is not None:
            return
        for split in (self.train_split, "meta", *self.task.evaluation_splits):
            self.encoded(split)

    def rows(self, split: str) -> EncodedSplit:
        """As `encoded`."""
        return self.encoded(split)

    def encoded(self, split: str) -> EncodedSplit:
        """Return `split` encoded, with its labels, teacher logits and (the training split) corruptions and their
        flags.
        """
        if split not in self.data.splits:
            raise UserError(f"unknown split {split!r} of task {self.task.name!r}; known are {sorted(self.data.splits)}")
        if split not in self._encoded:
            rows = self.data.splits[split]
            labels = torch.from_numpy(self.task.targets(column(rows, "label")))
            extras: dict[str, Tensor] = {}
            if split in self.teacher_logits:
                extras["teacher_logits"] = self.teacher_logits[split]
            if split in self.teacher_known:
                extras["teacher_logits_known"] = self.teacher_known[split]
            if split == self.train_split:
                extras |= self.teacher_states
                labels = self._corrupt(labels, extras)
                if split == "train":
                    extras |= {name: torch.from_numpy(values) for name, values in self.data.extras.items()}
            elif split == "meta":
                labels, _ = flip_meta_labels(labels, self.meta_noise, self.task.num_labels, self.seed)
            if self.store is None:
                columns = self.task.text_columns
                ids = encode(rows, self.tokenizer, columns, self.max_length, split, self.overflow, self.stride)
            else:
                self._tokenizer_state = self._tokenizer_state or tokenizer_digest(self.tokenizer)
                ids = encode_kept(
                    self.data,
                    split,
                    self.tokenizer,
                    self.max_length,
                    self.store,
                    self._tokenizer_state,
                    self.overflow,
                    self.stride,
                )
            self._encoded[split] = EncodedSplit(ids, labels, extras)
        return self._encoded[split]

    def evaluation_dataloader(self, split: str) -> DataLoader[Batch]:
        """Return the loader of an evaluation split; UserError for a split that is none."""
        if split not in self.task.evaluation_splits:
            raise UserError(f"{split!r} is no evaluation split of {self.task.name!r}: {self.task.evaluation_splits}")
        return self.dataloader(split)

    @property
    def train_flags(self) -> dict[str, Tensor]:
        """The corrupted training rows: label_flipped and teacher_corrupted, each `(N,)` bool."""
        extras = self.encoded(self.train_split).extras
        return {name: extras[name] for name in ("label_flipped", "teacher_corrupted")}

    @property
    def train_idx(self) -> Tensor:
        """The idx `(N,)` of the training rows in the data's source."""
        return torch.from_numpy(column(self.data.splits[self.train_split], "idx"))

    def _corrupt(self, labels: Tensor, extras: dict[str, Tensor]) -> Tensor:
        labels, extras["label_flipped"] = flip_labels(
            labels, self.label_noise, self.task.num_labels, self.seed, self.label_noise_kind
        )
        extras["teacher_corrupted"] = torch.zeros(len(labels), dtype=torch.bool)
        if "teacher_logits" in extras:
            flags = choose_rows(len(labels), self.task.num_labels, self.teacher_noise, self.seed)
            flags &= extras.get("teacher_logits_known", flags)
            extras["teacher_corrupted"] = flags
            said = r"teacher_logits(_\d+)?|teacher_layer_logits_.+"
            for name in [name for name in extras if re.fullmatch(said, name)]:
                extras[name] = roll_teacher(extras[name], flags)
        return labels

    def _checked(self, split: str, logits: Tensor) -> Tensor:
        expected = (len(self.data.splits[split]), self.task.num_labels)
        if tuple(logits.shape) != expected:
            raise UserError(f"the teacher logits of split {split!r} have shape {tuple(logits.shape)}, not {expected}")
        if not logits.is_floating_point():
            raise UserError(
                f"the teacher logits of split {split!r} have dtype {logits.dtype}; give logits, one number with a "
                "fraction per class"
            )
        logits = logits.detach().cpu().float()
        if not logits.isfinite().all():
            row = int((~logits.isfinite()).any(dim=1).nonzero()[0])
            raise UserError(f"the teacher logits of split {split!r} are not finite in row {row}; compute them again")
        return logits
