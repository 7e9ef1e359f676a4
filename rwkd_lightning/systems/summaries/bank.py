"""The meta step on the head, its inputs for all held-out tokens kept, and as many of them asked a step as are cheap."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rwkd_lightning.bilevel import FeatureBank
from rwkd_lightning.meta import HeadWithBank, MetaStream
from rwkd_lightning.meta.head import linear_head
from rwkd_lightning.meta.restriction import Batch
from rwkd_lightning.utils.errors import UserError

STREAM = 64  # of the seeds' streams


class TokenBank(FeatureBank):
    """Features ``(tokens, H)`` of M held-out summaries, and the targets of their tokens, one after the other.

    Args:
        read: ``(M, W)``, true where a summary has a token.
        width: H.
        dtype: of the features; the head's.
    """

    read: Tensor
    offsets: Tensor

    def __init__(self, read: Tensor, width: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(int(read.sum()), width, dtype)
        self.register_buffer("read", read, persistent=False)
        self.register_buffer("offsets", (read.flatten().cumsum(0) - 1).reshape(read.shape), persistent=False)

    def places(self, index: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Where these summaries have tokens in a batch of this length ``(m, T)``, and the places of these."""
        read = self.read[index][:, :length]
        return read, self.offsets[index][:, :length][read]

    def place(self, batch: Mapping[str, Tensor]) -> None:
        read, rows = self.places(batch["index"], batch["labels"].shape[1])
        found = {name: value for name, value in batch.items() if name == "labels" or name.startswith("teacher_")}
        found["index"] = batch["index"][:, None].expand(read.shape)
        for name, value in found.items():
            if name not in self.targets:
                self.targets[name] = value.new_zeros((len(self.features), *value.shape[2:]))
            self.targets[name][rows] = value[read]
        self.targets["length_share"] = torch.ones(len(self.features), device=batch["index"].device)

    @torch.no_grad()
    def refresh(self, features: Tensor, batch: Mapping[str, Tensor]) -> None:
        """Write the features ``(m, T, H)`` of the summaries ``batch["index"]``."""
        read, rows = self.places(batch["index"], features.shape[1])
        self.features[rows] = features.detach()[read].to(self.features.dtype)
        if not self.full:
            self.seen[rows] = True


class HeadWithTokenBank(HeadWithBank):
    """As `HeadWithBank`, of tokens: the held-out loss is the mean over held-out tokens, a part of them at each step.

    θ is the head's weight. Where that is the word table too, the influence is that of its role as the head alone.

    Args:
        tokens: asked at a step, drawn from all by the step; the vocabulary makes each of them dear.
        centre, output: as of `Head`.

    Raises:
        UserError: for fewer tokens than one.
    """

    def __init__(self, tokens: int = 1024, centre: bool = False, output: str = "logits") -> None:
        super().__init__(centre, output)
        if tokens < 1:
            raise UserError(f"`tokens` is {tokens}; the meta loss needs 1 held-out token at least")
        self.tokens = tokens

    def build(self, student: nn.Module, stream: MetaStream) -> None:
        head = linear_head(student)
        if getattr(student, "has_offset", False):
            raise UserError(
                "the bank of tokens needs logits that are the head's alone, and this student adds a constant to them "
                "(final_logits_bias); use `theta=All()`"
            )
        rows: Any = getattr(stream, "dataset")  # noqa: B009 - of the data module's streams
        self.bank = TokenBank(rows.read, head.in_features, head.weight.dtype)
        self.plan(stream)

    def held_out(self, student: nn.Module, stream: MetaStream, step: int, device: torch.device) -> tuple[Tensor, Batch]:
        features, targets = super().held_out(student, stream, step, device)
        chosen = drawn(len(features), self.tokens, step).to(device)
        return features[chosen], {name: values[chosen] for name, values in targets.items()}

    def __repr__(self) -> str:
        return "token_bank"


def drawn(size: int, count: int, step: int) -> Tensor:
    """So many of so many places, in order; those of a step are always the same."""
    if count >= size:
        return torch.arange(size)
    turn, part = divmod(step, -(-size // count))
    order = np.random.default_rng([turn, STREAM]).permutation(size)
    return torch.from_numpy(np.sort(np.resize(order[part * count :][:count], count)))
