"""From sentences to token ids, with the place of each word's first token."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rwkd_lightning.utils.errors import UserError

log = logging.getLogger(__name__)
CHUNK = 4096


def encode(sentences: list[list[str]], tokenizer: Any, max_length: int, name: str) -> tuple[Any, list[list[int]]]:
    """Tokenize sentences, cut at ``max_length`` tokens and unpadded.

    Args:
        name: of the split, for messages.

    Returns:
        A table with the columns input_ids and, where the tokenizer gives them, token_type_ids; and for each word the
        place of its first token, −1 for one that was cut off or has no token.

    Raises:
        UserError: for a ``max_length`` that the tokenizer does not take, and a sentence of which no word has a token.
    """
    import pyarrow as pa

    if not 3 <= max_length <= tokenizer.model_max_length:
        raise UserError(
            f"data.max_length is {max_length}; this tokenizer takes 3 to {tokenizer.model_max_length} tokens"
        )
    types = {"input_ids": pa.list_(pa.int32()), "token_type_ids": pa.list_(pa.int8())}
    tables, starts = [], []
    for begin in range(0, len(sentences), CHUNK):
        part = sentences[begin : begin + CHUNK]
        encoded = tokenizer(
            part, is_split_into_words=True, truncation=True, max_length=max_length, return_attention_mask=False
        )
        tables.append(pa.table({key: pa.array(encoded[key], kind) for key, kind in types.items() if key in encoded}))
        for row, words in enumerate(part):
            places = places_of(encoded, row, len(words))
            if max(places) < 0:
                raise UserError(f"sentence {begin + row} of {name} gives no token ({' '.join(words)[:80]!r}); drop it")
            starts.append(places)
    tell_lost(starts, max_length, name)
    return pa.concat_tables(tables), starts


def places_of(encoded: Any, row: int, words: int) -> list[int]:
    """The place of each word's first token in a row that a tokenizer has encoded, -1 for a word without one."""
    places = [-1] * words
    for place, word in reversed(list(enumerate(encoded.word_ids(row)))):
        if word is not None:
            places[word] = place
    return places


def tell_lost(starts: list[list[int]], max_length: int, name: str) -> None:
    """Log how many words have no token: cut off, or such as the tokenizer leaves out."""
    words = sum(map(len, starts))
    cut = sum(len(places) - 1 - max(i for i, place in enumerate(places) if place >= 0) for places in starts)
    left_out = sum(place < 0 for places in starts for place in places) - cut
    if cut:
        log.info("%s: %d of %d words are beyond max_length=%d and are not read", name, cut, words, max_length)
    if left_out:
        log.info("%s: %d of %d words have no token of this tokenizer's and are not read", name, left_out, words)


def width(starts: list[list[int]]) -> int:
    """Words of the longest sentence that are read."""
    return max(max(i for i, place in enumerate(places) if place >= 0) + 1 for places in starts)


def padded(values: list[Any], width: int, fill: int) -> Tensor:
    """Lists of numbers as rows ``(N, width)``: cut, or filled up."""
    found = np.full((len(values), width), fill, dtype=np.int64)
    for row, value in zip(found, values, strict=True):
        row[: len(value)] = value[:width]
    return torch.from_numpy(found)
