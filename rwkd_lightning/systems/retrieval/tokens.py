"""Texts as token ids, padded batch by batch."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rwkd_lightning.utils.errors import UserError

log = logging.getLogger(__name__)
SHORTEST = 4
"""Tokens that a text needs room for."""


class Texts:
    """N texts in the tokens of one model, in order; an empty one is the tokenizer's own special tokens.

    Args:
        texts: the N.
        tokenizer: the model's.
        max_length: tokens of a text; what is beyond them is not read.
        what: ``query`` or ``document``.

    Raises:
        UserError: for a length that leaves no room for text, or that the model cannot take.
    """

    def __init__(self, texts: Sequence[str], tokenizer: Any, max_length: int, what: str) -> None:
        longest = tokenizer.model_max_length
        if not SHORTEST <= max_length <= longest:
            raise UserError(
                f"data.{what}_length is {max_length}; give {SHORTEST} to {longest} tokens, which the model "
                f"{tokenizer.name_or_path!r} can take"
            )
        self.what, self.max_length = what, max_length
        self.fill, self.left = tokenizer.pad_token_id, tokenizer.padding_side == "left"
        encoded = tokenizer(list(texts), add_special_tokens=True, truncation=False, verbose=False)["input_ids"]
        self.cut = sum(len(ids) > max_length for ids in encoded)
        short = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"] if self.cut else encoded
        self.ids = [np.asarray(ids, dtype=np.int64) for ids in short]

    def __len__(self) -> int:
        return len(self.ids)

    def tell(self, name: str) -> None:
        """Log how many are cut."""
        log.info(
            "%s: %.1f%% of %d cut at %d tokens", name, 100 * self.cut / max(1, len(self)), len(self), self.max_length
        )

    def batch(self, places: Sequence[int] | np.ndarray) -> dict[str, Tensor]:
        """``query_ids`` and ``query_mask`` (or ``document_ids``, ...), ``(n, T)`` each, of these texts."""
        chosen = [self.ids[place] for place in places]
        width = max(map(len, chosen))
        ids = np.full((len(chosen), width), self.fill, dtype=np.int64)
        mask = np.zeros((len(chosen), width), dtype=np.int64)
        for row, attended, values in zip(ids, mask, chosen, strict=True):
            where = slice(width - len(values), None) if self.left else slice(len(values))
            row[where], attended[where] = values, 1
        return {f"{self.what}_ids": torch.from_numpy(ids), f"{self.what}_mask": torch.from_numpy(mask)}

    def batches(self, size: int) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
        """Places and batch of all texts, longest first, so that there is little padding and memory fails at once."""
        order = np.argsort([-len(ids) for ids in self.ids], kind="stable")
        for start in range(0, len(order), size):
            places = order[start : start + size]
            yield places, self.batch(places)
