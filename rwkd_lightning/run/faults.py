"""Faults of a training, reported in one line; nothing that was done is lost."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from rwkd_lightning.utils.distributed import rank
from rwkd_lightning.utils.errors import NotFinite, UserError


@contextmanager
def kept_for_replay(folder: Path, data: Any) -> Iterator[None]:
    """Keep the batch of a step that met NaN or infinity: ``failed_step.safetensors`` and, to read, a ``.json``.

    Args:
        folder: gets the files; those of another process than the first have its number in their names.
        data: the data module; its ``train_idx`` ``(N,)`` names the rows in the data's source.

    Raises:
        UserError: in place of a `NotFinite`, with the file's name.
    """
    try:
        yield
    except NotFinite as error:
        path = folder / f"failed_step{f'-{rank()}' if rank() else ''}.safetensors"
        tensors = {**error.batch, "losses": error.losses, "weights": error.weights}
        save_file({name: value.contiguous() for name, value in tensors.items()}, path)
        index = error.batch["index"]
        rows = {
            "step": error.step,
            "epoch": error.epoch,
            "what": error.what,
            "idx": data.train_idx[index].tolist(),
            "losses": [[repr(x) for x in row] for row in error.losses.tolist()],
        }
        path.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
        raise UserError(f"{error}; this batch is kept in {path}") from error


@contextmanager
def memory_told(less: str) -> Iterator[None]:
    """Turn exhausted memory, and a data worker that was killed for it, into a UserError; other errors pass.

    Args:
        less: another way to need less memory, of this system.

    Raises:
        UserError: that names the setting to change. The last checkpoint stays: the same command goes on from there.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text, workers = str(error), "repeat the command to go on from the last checkpoint, with data.num_workers=0"
        if "DataLoader worker" in text and ("killed by signal" in text or "exited unexpectedly" in text):
            name = re.search(r"signal: ([\w ]+)", text)
            raise UserError(
                f"a data worker was killed (signal: {name[1] if name else 'unknown'}), most often because the memory "
                f"was exhausted; {workers}"
            ) from error
        if isinstance(error, MemoryError) and "DataLoader worker" in text:
            raise UserError(f"the memory of a data worker was exhausted; {workers}") from error
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text:
            raise UserError(
                "the memory was exhausted; let each batch be worked through in parts, trainer.accumulate=4 with a "
                f"smaller data.batch_size (of the teacher: pair.teacher.batch_size), or {less}: "
                "each begins a run of its own, the teacher's cached results stay"
            ) from error
        raise
