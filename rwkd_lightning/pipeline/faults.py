"""What can go wrong in a run through no fault of the code, told in one line; nothing that was done is lost."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rwkd_lightning.errors import UserError


@contextmanager
def memory_told() -> Iterator[None]:
    """Turn exhausted memory, and a data worker that was killed for it, into a UserError; other errors pass.

    Raises:
        UserError: that names the setting to change. The last checkpoint stays: the same command goes on from there.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text, workers = str(error), "repeat the command to go on from the last checkpoint, with data.num_workers=0"
        if "DataLoader worker" in text and ("killed by signal" in text or "exited unexpectedly" in text):
            name = re.search(r"signal: ([\w ]+)", text)
            raise UserError(f"a data worker was killed (signal: {name[1] if name else 'unknown'}), most often because the memory "
                            f"was exhausted; {workers}") from error
        if isinstance(error, MemoryError) and "DataLoader worker" in text:
            raise UserError(f"the memory of a data worker was exhausted; {workers}") from error
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text:
            raise UserError("the memory was exhausted; let each batch be worked through in parts, trainer.accumulate=4 with a "
                            "smaller data.batch_size (of the teacher: pair.teacher.batch_size), or lower data.max_length"
                            ) from error
        raise
