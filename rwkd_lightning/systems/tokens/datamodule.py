"""The data module of token classification: words, tags, and what the teacher says of each word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rwkd_lightning.data.resumable import ResumableDataModule
from rwkd_lightning.systems.text.data.collate import Collator, EncodedSplit
from rwkd_lightning.systems.text.data.corruption import choose_rows
from rwkd_lightning.systems.tokens.data import TokenData
from rwkd_lightning.systems.tokens.encoding import encode, padded, width
from rwkd_lightning.utils.errors import UserError

LABELS, TEACHER = 1, 0  # of corruption: the seeds' streams


class TokenDataModule(ResumableDataModule):
    """Loaders for one student or teacher.

    A row is a sentence, its words on an axis of the same length W in all splits: ``labels`` ``(B, W)``, −1 where there
    is no word or the tokenizer has lost it; ``starts`` ``(B, W)``, see `Tagger`; ``words`` ``(B, W)``, true where a
    word is read; with teacher's logits also ``teacher_logits`` ``(B, W, C)`` and ``taught`` ``(B, W)``, true where
    both student and teacher read the word.

    Args:
        teacher: its logits ``(words, C)`` of some splits, all words one after the other, NaN for one that it does not
            read.
        label_noise: share of the training sentences whose words all get the next tag.
        teacher_noise: share of the training sentences whose teacher's logits are rolled by one tag.
    """

    def __init__(
        self,
        data: TokenData,
        tokenizer: Any,
        *,
        max_length: int = 128,
        batch_size: int = 32,
        eval_batch_size: int = 64,
        meta_batch_size: int = 32,
        seed: int = 0,
        num_workers: int = 0,
        label_noise: float = 0.0,
        teacher_noise: float = 0.0,
        teacher: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.data, self.tokenizer, self.collator = data, tokenizer, Collator(tokenizer)
        self.batch_size, self.eval_batch_size, self.meta_batch_size = batch_size, eval_batch_size, meta_batch_size
        self.seed, self.num_workers = seed, num_workers
        self.label_noise, self.teacher_noise, self.teacher = label_noise, teacher_noise, dict(teacher or {})
        self.encoded = {name: encode(split.tokens, tokenizer, max_length, name) for name, split in data.splits.items()}
        self.width = max(width(starts) for _, starts in self.encoded.values())
        """W."""
        self.made: dict[str, EncodedSplit] = {}

    def rows(self, split: str) -> EncodedSplit:
        if split not in self.encoded:
            raise UserError(f"unknown split {split!r}; known are {', '.join(self.encoded)}")
        if split not in self.made:
            self.made[split] = self.make(split)
        return self.made[split]

    def make(self, split: str) -> EncodedSplit:
        """The rows of a split."""
        table, places = self.encoded[split]
        starts = padded(places, self.width, -1)
        words = starts >= 0
        labels = padded(self.data.splits[split].tags, self.width, -1).masked_fill(~words, -1)
        extras = {"starts": starts.clamp_min(0), "words": words}
        if split in self.teacher:
            logits = self.logits(split)
            known = ~logits.isnan().any(2)
            extras |= {"teacher_logits": logits.nan_to_num(0.0), "taught": known & words}
        if split == self.train_split:
            labels = self.corrupt(labels, extras)
            if self.data.weights is not None:
                extras["sample_weight"] = torch.from_numpy(self.data.weights)
        return EncodedSplit(table, labels, extras)

    def logits(self, split: str) -> Tensor:
        """The teacher's ``(N, W, C)``, NaN where there is no word."""
        flat = self.teacher[split]
        found = flat.new_full((len(self.data.splits[split]), self.width, flat.shape[1]), float("nan"))
        begin = 0
        for row, sentence in zip(found, self.data.splits[split].tokens, strict=True):
            kept = min(len(sentence), self.width)
            row[:kept] = flat[begin : begin + kept]
            begin += len(sentence)
        return found

    def corrupt(self, labels: Tensor, extras: dict[str, Tensor]) -> Tensor:
        """The labels, some corrupted, and in ``extras`` the teacher's logits and which rows are corrupted."""
        size, tags = len(labels), len(self.data.tags)
        flipped = choose_rows(size, tags, self.label_noise, 2 * self.seed + LABELS)
        extras["label_flipped"] = flipped
        extras["teacher_corrupted"] = torch.zeros(size, dtype=torch.bool)
        if "teacher_logits" in extras:
            flags = choose_rows(size, tags, self.teacher_noise, 2 * self.seed + TEACHER)
            extras["teacher_corrupted"] = flags
            logits = extras["teacher_logits"]
            extras["teacher_logits"] = torch.where(flags[:, None, None], logits.roll(1, dims=2), logits)
        return torch.where(flipped[:, None] & (labels >= 0), (labels + 1) % tags, labels)

    @property
    def train_flags(self) -> dict[str, Tensor]:
        """The corrupted training sentences: label_flipped and teacher_corrupted, each ``(N,)`` bool."""
        extras = self.rows(self.train_split).extras
        return {name: extras[name] for name in ("label_flipped", "teacher_corrupted")}

    @property
    def train_idx(self) -> Tensor:
        """The number ``(N,)`` of each training sentence in its file."""
        return torch.tensor(self.data.splits[self.train_split].idx)

    def flat(self, split: str, values: Tensor) -> Tensor:
        """Values ``(N, W, ...)`` of the words one after the other, ``(words, ...)``; NaN of those that are not read."""
        words = self.rows(split).extras["words"]
        found = values.new_full((self.data.splits[split].words, *values.shape[2:]), float("nan"))
        begin = 0
        for row, (sentence, read) in enumerate(zip(self.data.splits[split].tokens, words, strict=True)):
            places = read.nonzero()[:, 0]
            found[begin + places] = values[row, places]
            begin += len(sentence)
        return found
