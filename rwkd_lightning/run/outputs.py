"""The files of a finished run, whole or not there: weights.parquet (one row per training sample), predictions.parquet
(one row per scored one), metrics.json.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rwkd_lightning.data.resumable import ResumableDataModule
from rwkd_lightning.training.ledger import Ledger

ROW_GROUP = 16_384
"""Rows of ``weights.parquet`` that are copied at a time."""


@contextlib.contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of ``folder`` when that went well."""
    part = Path(tempfile.mkdtemp(prefix=".student-", dir=folder.parent))
    try:
        yield part
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_weights(
    path: Path, ledger: Ledger, data: ResumableDataModule, more: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """``weights.parquet``: idx, split, label, what is known of a row, the ledger's columns and ``more``; returns the
    tensors.

    NaN, which stands for what there is not, is written as null.
    """
    import pyarrow
    import pyarrow.parquet

    columns = {
        "idx": data.train_idx,
        "label": data.train_labels,
        **data.train_flags,
        **ledger.columns(),
        **(more or {}),
    }
    groups = [slice(start, start + ROW_GROUP) for start in range(0, data.train_size, ROW_GROUP)]

    def table(rows: slice) -> Any:
        idx, *rest = ((name, column_of(values[rows])) for name, values in columns.items())
        return pyarrow.table(dict([idx, ("split", pyarrow.repeat(data.train_split, len(idx[1]))), *rest]))

    part = path.with_name(f".{path.name}.part")
    with pyarrow.parquet.ParquetWriter(part, table(slice(0)).schema) as writer:
        for rows in groups:
            writer.write_table(table(rows))
    pyarrow.default_memory_pool().release_unused()  # nothing else of a run can use what Arrow keeps
    os.replace(part, path)
    return columns


def write_predictions(path: Path, rows: Mapping[str, Mapping[str, Tensor]]) -> None:
    """``predictions.parquet``: split, idx, and what the student says of each row that was scored.

    Args:
        rows: by split, then by column; ``(N,)`` or ``(N, C)``, written as a list.
    """
    import pyarrow
    import pyarrow.parquet

    tables = [
        pyarrow.table(
            {
                "split": pyarrow.repeat(split, len(columns["idx"])),
                **{name: column_of(values.cpu()) for name, values in columns.items()},
            }
        )
        for split, columns in rows.items()
    ]
    part = path.with_name(f".{path.name}.part")
    pyarrow.parquet.write_table(pyarrow.concat_tables(tables), part)
    os.replace(part, path)


def column_of(values: Tensor) -> Any:
    """A column of Arrow, of lists where there are several numbers per row; NaN is written as null."""
    import pyarrow

    plain = values.numpy()
    if values.ndim == 1:
        return pyarrow.array(plain, from_pandas=True)
    return pyarrow.array(list(plain), pyarrow.list_(pyarrow.from_numpy_dtype(plain.dtype)))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """A JSON file, replaced in one move; null for a number that does not exist, as NaN is no JSON."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(without_nan(value), indent=2, allow_nan=False) + "\n")
    os.replace(part, path)


def without_nan(value: Any) -> Any:
    """None for every NaN in nested dictionaries and lists (a correlation with constant predictions, say)."""
    if isinstance(value, Mapping):
        return {name: without_nan(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def differs(column: Tensor) -> bool:
    """Whether a column tells rows apart, those aside for which it is missing (NaN)."""
    known = column[column.isfinite()]
    return len(known) > 1 and float(known.std()) > 0


def area_under_roc(scores: Tensor, positives: Tensor) -> float:
    """Area under the ROC curve of scores ``(N,)`` for flags ``(N,)``."""
    from torchmetrics.functional.classification import binary_auroc

    ranks = torch.unique(scores.double(), return_inverse=True)[
        1
    ].double()  # torchmetrics would squash values outside [0, 1]
    return float(binary_auroc(ranks / ranks.max().clamp_min(1), positives.long()))
