"""From token ids to padded batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from rwkd_lightning.data.batching import Batch
from rwkd_lightning.utils.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

_RESERVED = {"input_ids", "token_type_ids", "attention_mask", "label", "labels", "index"}


class EncodedSplit(Dataset[dict[str, Any]]):
    """A split of N rows as a map-style dataset, with labels `(N,)` and extra per-row tensors `(N, ...)`."""

    def __init__(self, encoded: pa.Table, labels: Tensor, extras: Mapping[str, Tensor] | None = None) -> None:
        """Take the table of `encode`; ValueError where a tensor has not N rows or an extra has another field's name."""
        self.labels, self.extras = labels, dict(extras or {})
        for key, value in {"label": labels, **self.extras}.items():
            if len(value) != len(encoded):
                raise ValueError(f"{key!r} has {len(value)} rows, the split has {len(encoded)}")
        if clash := _RESERVED & set(self.extras):
            raise ValueError(f"extras may not be named {sorted(clash)}")
        # One flat array per column, since reading a row of the Arrow table costs more than padding it. A view: where
        # the table is a mapped file, all processes share its pages, and the view keeps them mapped.
        whole = encoded.combine_chunks()  # the table's copies nothing that is in one chunk, a column's would
        lists = {key: whole[key].chunk(0) for key in whole.column_names}
        self.tokens: dict[str, np.ndarray] = {key: rows.flatten().to_numpy() for key, rows in lists.items()}
        offsets: np.ndarray = lists["input_ids"].offsets.to_numpy()
        self.offsets = (
            offsets - offsets[0] if offsets[0] else offsets
        )  # of rows cut out of more, `flatten` gives theirs only
        self.lengths: np.ndarray = np.diff(offsets)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        extras = {key: value[index] for key, value in self.extras.items()}
        tokens = {key: flat[self.offsets[index] : self.offsets[index + 1]] for key, flat in self.tokens.items()}
        return {**tokens, "label": self.labels[index], "index": index, **extras}


class Collator:
    """Pads rows to the longest of the batch, on the tokenizer's side; UserError without a padding token.

    With `window` a row of more tokens is that of several windows of so many, the last one shorter: where a batch has
    such a row, its tokens are `(B, W, T)`, windows that a row lacks being padding throughout.
    """

    def __init__(self, tokenizer: Any, window: int | None = None) -> None:
        if tokenizer.pad_token_id is None:
            raise UserError(f"the tokenizer {tokenizer.name_or_path!r} has no padding token; set tokenizer.pad_token")
        self.fill = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
        self.left = tokenizer.padding_side == "left"
        self.window = window

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Return input_ids, attention_mask (and token_type_ids) `(B, T)`, labels and index `(B,)`, and the extras."""
        batch = {key: self._pad([r[key] for r in rows], fill) for key, fill in self.fill.items() if key in rows[0]}
        batch["attention_mask"] = self._pad([np.ones_like(row["input_ids"]) for row in rows], 0)
        batch["labels"] = torch.stack([row["label"] for row in rows])
        batch["index"] = torch.tensor([row["index"] for row in rows], dtype=torch.long)
        for key in rows[0]:
            if key not in _RESERVED:
                batch[key] = torch.stack([row[key] for row in rows])
        return batch

    def _pad(self, values: list[np.ndarray], fill: int) -> Tensor:
        width = max(map(len, values))
        if self.window is not None and width > self.window:
            return self._pad_windows(values, fill, self.window)
        padded = np.full((len(values), width), fill, dtype=np.int64)
        for row, value in zip(padded, values, strict=True):
            row[width - len(value) if self.left else 0 :][: len(value)] = value
        return torch.from_numpy(padded)

    def _pad_windows(self, values: list[np.ndarray], fill: int, width: int) -> Tensor:
        count = -(-max(map(len, values)) // width)
        padded = np.full((len(values), count, width), fill, dtype=np.int64)
        for row, value in zip(padded, values, strict=True):
            for window, start in zip(row, range(0, len(value), width), strict=False):
                part = value[start : start + width]
                window[width - len(part) if self.left else 0 :][: len(part)] = part
        return torch.from_numpy(padded)
