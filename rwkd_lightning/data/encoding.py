"""From texts to token ids."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rwkd_lightning.errors import UserError

if TYPE_CHECKING:
    import datasets

log = logging.getLogger(__name__)
_CHUNK = 4096


def encode(
    dataset: datasets.Dataset, tokenizer: Any, text_columns: Sequence[str], max_length: int, name: str = "dataset"
) -> datasets.Dataset:
    """Tokenize the rows, cut at `max_length` and unpadded: columns input_ids and, where given, token_type_ids.

    Logs at info level the share of rows of split `name` that were cut. UserError for a `max_length` that leaves no
    room for text or that the tokenizer's model cannot take, and for a text that gives no token.
    """
    from datasets import Dataset as Table
    from datasets import Features, Value, concatenate_datasets
    from datasets import Sequence as List

    special = tokenizer.num_special_tokens_to_add(pair=len(text_columns) == 2)
    if not special + len(text_columns) <= max_length <= tokenizer.model_max_length:
        raise UserError(
            f"data.max_length is {max_length}; this tokenizer takes {special + len(text_columns)} to "
            f"{tokenizer.model_max_length} tokens"
        )
    chunks, cut = [], 0
    for start in range(0, len(dataset), _CHUNK):
        rows = dataset.with_format(None)[start : start + _CHUNK]
        texts = [list(rows[column]) for column in text_columns]
        encoded = tokenizer(*texts, truncation=True, max_length=max_length, return_attention_mask=False)
        ids = encoded["input_ids"]
        if empty := [start + i for i, row in enumerate(ids) if not row]:
            raise UserError(f"row {empty[0]} of {name} gives no token (text {texts[0][empty[0] - start]!r}); drop it")
        # Only a fast tokenizer tells a cut text from one that just fits.
        details = encoded.encodings
        cut += sum(bool(d.overflowing) for d in details) if details else sum(len(row) == max_length for row in ids)
        columns = {key: encoded[key] for key in ("input_ids", "token_type_ids") if key in encoded}
        chunks.append(Table.from_dict(columns, features=Features({key: List(Value("int32")) for key in columns})))
    log.info("%s: %.1f%% of %d rows cut at max_length=%d", name, 100 * cut / len(dataset), len(dataset), max_length)
    return concatenate_datasets(chunks)
