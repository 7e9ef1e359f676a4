"""The head's inputs for every word of the meta split, kept and refreshed a few sentences per step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rwkd_lightning.bilevel import FeatureBank
from rwkd_lightning.meta import HeadWithBank, MetaStream
from rwkd_lightning.meta.head import linear_head


class WordBank(FeatureBank):
    """Features ``(words, H)`` of M held-out sentences, and the targets of their words, one after the other.

    Args:
        read: ``(M, W)``, true where a word is read.
        width: H.
        dtype: of the features; the head's.
    """

    read: Tensor
    offsets: Tensor

    def __init__(self, read: Tensor, width: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(int(read.sum()), width, dtype)
        self.register_buffer("read", read, persistent=False)
        self.register_buffer("offsets", (read.flatten().cumsum(0) - 1).reshape(read.shape), persistent=False)

    def place(self, batch: Mapping[str, Tensor]) -> None:
        index = batch["index"]
        read = self.read[index]
        rows = self.offsets[index][read]
        for name, value in batch.items():
            if isinstance(value, Tensor) and value.shape[:2] == read.shape and name != "starts":
                if name not in self.targets:
                    self.targets[name] = value.new_zeros((len(self.features), *value.shape[2:]))
                self.targets[name][rows] = value[read]
        self.targets["index"] = torch.arange(len(self.features), device=index.device)

    @torch.no_grad()
    def refresh(self, features: Tensor, batch: Mapping[str, Tensor]) -> None:
        """Write the features ``(m, W, H)`` of the sentences ``batch["index"]``."""
        read = self.read[batch["index"]]
        rows = self.offsets[batch["index"]][read]
        self.features[rows] = features.detach()[read].to(self.features.dtype)
        if not self.full:
            self.seen[rows] = True


class HeadWithWordBank(HeadWithBank):
    """As `HeadWithBank`, of words: the held-out loss is the mean over all held-out words."""

    def build(self, student: nn.Module, stream: MetaStream) -> None:
        head, rows = linear_head(student), getattr(stream, "dataset")  # noqa: B009 - of the data module's streams
        self.bank = WordBank(rows.extras["words"], head.in_features, head.weight.dtype)
        self.plan(stream)


def with_words(meta: Any) -> Any:
    """A meta step whose bank keeps words, where it has one that keeps samples; others as they are."""
    if meta is not None and type(meta.theta) is HeadWithBank:
        meta.theta = HeadWithWordBank(meta.theta.centre, meta.theta.output)
    return meta
