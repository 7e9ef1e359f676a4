"""A file of tokens as one Arrow record batch, put together on disk: no more than a chunk of the rows is in memory."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa


def write_tokens(file: Path, chunks: Iterable[tuple[pa.Table, int]]) -> None:
    """Write what `encoding` gives chunk by chunk (columns of lists, rows cut) as the batch that one big table would be.

    A row of each column has as many tokens as one of input_ids. ValueError where that is not so, ArrowInvalid beyond
    2³¹ tokens.
    """
    import pyarrow as pa

    parts: dict[str, IO[bytes]] = {}
    kinds: dict[str, np.dtype] = {}
    lengths: list[np.ndarray] = []
    cut = 0
    with contextlib.ExitStack() as stack:
        for table, cut_here in chunks:
            for name in table.column_names:
                rows = table[name].combine_chunks()
                flat = rows.flatten().to_numpy()
                if name not in parts:
                    parts[name] = stack.enter_context(tempfile.TemporaryFile(dir=file.parent))
                    kinds[name] = flat.dtype
                parts[name].write(flat)
                if name == "input_ids":
                    lengths.append(rows.value_lengths().to_numpy())
            cut += cut_here
        offsets = pa.array(np.cumsum(np.concatenate([[0], *lengths]), dtype=np.int64), pa.int32())
        columns = {}
        for name, part in parts.items():
            part.flush()
            flat = np.memmap(part, kinds[name], "r")
            if len(flat) != offsets[-1].as_py():
                raise ValueError(f"{name} has {len(flat)} tokens, input_ids {offsets[-1]}")
            columns[name] = pa.ListArray.from_arrays(offsets, pa.array(flat))
        batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns)).replace_schema_metadata(
            {"cut": str(cut)}
        )
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
