"""One's own data set for the loop: rows as dicts that know their place, and held-out rows as an endless stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, default_collate

from rwkd_lightning.data.batching import MetaStream
from rwkd_lightning.utils.errors import UserError


class IndexedDataset(Dataset[dict[str, Any]]):
    """A map-style dataset whose rows are dicts with their place in it, ``index``.

    The loop keeps a record of every training sample, so each row must say which one it is: wrap the dataset before the
    DataLoader shuffles it, ``DataLoader(IndexedDataset(dataset), shuffle=True)``. An ``index`` that the rows have
    already is replaced.

    Args:
        dataset: rows as dicts, or as tuples with ``names``.
        names: of the places of a tuple, as ``IndexedDataset(TensorDataset(x, y), "x", "labels")``.

    Raises:
        UserError: for a dataset without a length or without rows; by access, for a row that is neither a dict nor
            named.
    """

    def __init__(self, dataset: Any, *names: str) -> None:
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise UserError(f"{type(dataset).__name__} has no length or no rows by number; give a map-style dataset")
        if not len(dataset):
            raise UserError(f"the {type(dataset).__name__} has no rows; give at least one")
        self.dataset, self.names = dataset, names
        self.lengths = np.zeros(len(dataset), dtype=np.int64)  # all alike: batches are of random rows

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.dataset[index]
        if self.names:
            if len(row) != len(self.names):
                raise UserError(
                    f"a row of the {type(self.dataset).__name__} has {len(row)} parts, and the names {self.names} "
                    "are for another number"
                )
            row = dict(zip(self.names, row, strict=True))
        elif not isinstance(row, Mapping):
            raise UserError(
                f"a row of the {type(self.dataset).__name__} is a {type(row).__name__} and not a dict; name its "
                "parts, as IndexedDataset(dataset, 'x', 'labels')"
            )
        return {**row, "index": index}


def held_out(data: Any, batch_size: int = 32, seed: int = 0) -> MetaStream:
    """Held-out rows as the stream of a meta step: an endless seeded sequence of batches.

    Args:
        data: a map-style dataset, or a DataLoader, of which the dataset, the batch size and the collate function are
            used.
        batch_size: rows per batch, of a dataset.
        seed: of the order.

    Raises:
        UserError: for data without a length.
    """
    collate: Callable[[Any], Any] = default_collate
    if isinstance(data, DataLoader):
        data, batch_size, collate = data.dataset, data.batch_size or batch_size, data.collate_fn
    rows = data if isinstance(data, IndexedDataset) else IndexedDataset(data)
    return MetaStream(rows, collate, min(batch_size, len(rows)), seed)
