"""Documents and summaries as tokens of one model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

log = logging.getLogger(__name__)
GROUP = 1000
"""Texts that are encoded at a time."""


def encoded(texts: Sequence[str], tokenizer: Any, length: int, target: bool = False) -> list[np.ndarray]:
    """The tokens of each text, at most ``length`` with the tokenizer's own; as a target where it tells these apart."""
    found: list[np.ndarray] = []
    for start in range(0, len(texts), GROUP):
        group = list(texts[start : start + GROUP])
        options: dict[str, Any] = {"truncation": True, "max_length": length, "return_attention_mask": False}
        made = tokenizer(text_target=group, **options) if target else tokenizer(group, **options)
        found += [np.array(ids, dtype=np.int64) for ids in made["input_ids"]]
    return found


def tell_cut(rows: Sequence[np.ndarray], length: int, what: str) -> None:
    """Log how many texts fill the whole length: their ends may not be read."""
    full = sum(len(ids) >= length for ids in rows)
    if full:
        log.info("%d of %d %s have %d tokens or more; what is beyond is not read", full, len(rows), what, length)


def padded(rows: Sequence[np.ndarray], fill: int) -> Tensor:
    """Rows of tokens as one tensor ``(B, longest)``."""
    found = np.full((len(rows), max(1, max(map(len, rows), default=1))), fill, dtype=np.int64)
    for row, ids in zip(found, rows, strict=True):
        row[: len(ids)] = ids
    return torch.from_numpy(found)
