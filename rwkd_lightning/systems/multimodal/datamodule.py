"""The data module of text and picture."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rwkd_lightning.data.resumable import ResumableDataModule
from rwkd_lightning.systems.multimodal.collection import NONE, SPLITS, TRAIN, Collection, Examples
from rwkd_lightning.systems.multimodal.corruption import Swaps
from rwkd_lightning.systems.multimodal.fusion import PASSES, SUFFIX
from rwkd_lightning.systems.text.data.collate import Collator, EncodedSplit
from rwkd_lightning.systems.text.data.corruption import choose_rows, flip_labels, roll_teacher
from rwkd_lightning.utils.errors import UserError

log = logging.getLogger(__name__)
FLAGS = ("label_flipped", "teacher_corrupted", "text_swapped", "image_swapped")


class Pairs(EncodedSplit):
    """The rows of a split, each with the features of its picture; zeros where it has none.

    Args:
        encoded: ``input_ids``, a list for each row.
        pictures: the number of each row's picture, −1: none.
        features: ``(M, P, D)`` of all pictures, which rows share.
    """

    def __init__(
        self, encoded: Any, labels: Tensor, extras: Mapping[str, Tensor], pictures: Tensor, features: Tensor
    ) -> None:
        super().__init__(encoded, labels, extras)
        self.pictures, self.features = pictures, features

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = super().__getitem__(index)
        place = int(self.pictures[row["index"]])
        shape = self.features.shape[1:]
        return {**row, "visual_embeds": self.features[place] if place != NONE else self.features.new_zeros(shape)}


class MultimodalDataModule(ResumableDataModule):
    """Loaders for one student or teacher.

    A batch has ``input_ids`` and ``attention_mask`` ``(B, T)``, ``visual_embeds`` ``(B, P, D)``, ``has_text`` and
    ``has_image`` ``(B,)``, ``labels``, ``index`` and, with the teacher's outputs, ``teacher_logits``,
    ``teacher_logits_text`` and ``teacher_logits_image`` ``(B, C)``.

    Args:
        features: ``(M, P, D)`` of the pictures.
        teacher: of some splits what it says to both, the text and the picture, ``(N, 3, C)``.
        label_noise: share of the training labels flipped.
        teacher_noise: share of the training rows whose teacher's logits, all three, are rolled by one class.
        swaps: the training rows' texts and pictures; None: their own.
    """

    def __init__(
        self,
        data: Collection,
        features: Tensor,
        tokenizer: Any,
        *,
        max_length: int = 64,
        batch_size: int = 32,
        eval_batch_size: int = 64,
        meta_batch_size: int = 32,
        seed: int = 0,
        num_workers: int = 0,
        label_noise: float = 0.0,
        teacher_noise: float = 0.0,
        swaps: Swaps | None = None,
        teacher: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.data, self.features, self.tokenizer, self.max_length = data, features, tokenizer, max_length
        self.collator = Collator(tokenizer)
        self.batch_size, self.eval_batch_size, self.meta_batch_size = batch_size, eval_batch_size, meta_batch_size
        self.seed, self.num_workers = seed, num_workers
        self.label_noise, self.teacher_noise, self.teacher = label_noise, teacher_noise, dict(teacher or {})
        self.swaps = swaps
        self.made: dict[str, Pairs] = {}

    def rows(self, split: str) -> Pairs:
        if split not in self.data.splits:
            raise UserError(f"unknown split {split!r}; known are {', '.join(SPLITS)}")
        if split not in self.made:
            self.made[split] = self.make(split)
        return self.made[split]

    def examples(self, split: str) -> Examples:
        """The rows as they are seen: those of the training with the swaps."""
        rows = self.data.splits[split]
        return rows if split != TRAIN or self.swaps is None else self.swaps.seen(rows)

    def make(self, split: str) -> Pairs:
        """The rows of a split."""
        rows = self.examples(split)
        pictures = torch.tensor(rows.pictures, dtype=torch.long)
        labels = torch.from_numpy(np.ascontiguousarray(rows.labels))
        extras = {"has_text": torch.tensor([bool(text) for text in rows.texts]), "has_image": pictures != NONE}
        if split in self.teacher:
            said = self.teacher[split].float()
            extras |= {f"teacher_logits{SUFFIX[kind]}": said[:, place] for place, kind in enumerate(PASSES)}
        if split == self.train_split:
            labels = self.corrupt(labels, extras)
        return Pairs(self.encode(rows.texts, split), labels, extras, pictures, self.features)

    def encode(self, texts: Any, split: str) -> Any:
        """The texts' tokens, as a table."""
        import pyarrow as pa

        ids = self.tokenizer(list(texts), truncation=True, max_length=self.max_length)["input_ids"]
        cut = sum(len(row) == self.max_length for row in ids)
        if cut:
            log.info("%s: %d of %d texts fill max_length=%d or are cut", split, cut, len(ids), self.max_length)
        return pa.table({"input_ids": pa.array(ids, pa.list_(pa.int64()))})

    def corrupt(self, labels: Tensor, extras: dict[str, Tensor]) -> Tensor:
        """The labels, some corrupted; in ``extras`` the teacher's logits, and which rows are corrupted."""
        classes = len(self.data.classes)
        extras["label_flipped"] = torch.zeros(len(labels), dtype=torch.bool)
        if self.label_noise:
            labels, extras["label_flipped"] = flip_labels(labels, self.label_noise, classes, self.seed)
        flags = choose_rows(len(labels), classes, self.teacher_noise, self.seed)
        extras["teacher_corrupted"] = flags if self.teacher else torch.zeros_like(flags)
        for name in [name for name in extras if name.startswith("teacher_logits")]:
            extras[name] = roll_teacher(extras[name], extras["teacher_corrupted"])
        own, seen = self.data.splits[TRAIN], self.examples(TRAIN)
        for name, mine, theirs in (("text", own.texts, seen.texts), ("image", own.pictures, seen.pictures)):
            extras[f"{name}_swapped"] = torch.tensor([x != y for x, y in zip(mine, theirs, strict=True)])
        return labels

    @property
    def train_flags(self) -> dict[str, Tensor]:
        """The corrupted training rows, ``(N,)`` bool each."""
        extras = self.rows(self.train_split).extras
        return {name: extras[name] for name in FLAGS}

    @property
    def train_idx(self) -> Tensor:
        """The number ``(N,)`` of each training row in its source."""
        return torch.tensor(list(self.data.splits[self.train_split].idx))
