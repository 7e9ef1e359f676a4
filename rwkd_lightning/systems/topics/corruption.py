"""A corruption with a known truth, to see whether learned weights find it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from rwkd_lightning.utils.errors import UserError

_STREAM = 24
FLAG = "teacher_corrupted"


def check_share(share: float, documents: int) -> None:
    """Raise UserError for a share outside [0, 1), or one of a single document, which has no other to swap with."""
    if not 0 <= share < 1 or round(share * documents) == 1:
        raise UserError(
            f"data.teacher_noise is {share}; give a number from 0 up to, but not including, 1, and of two documents "
            f"or more (there are {documents} to train on)"
        )


def swap_teacher(states: Mapping[str, Tensor], rows: np.ndarray, share: float, seed: int) -> dict[str, Tensor]:
    """Give ``round(share * R)`` of the R documents in ``rows`` what the teacher made of another one of them.

    Args:
        states: of all N documents by name, ``(N, ...)``.
        rows: numbers of the documents that may be corrupted, ``(R,)``: those of the training part.
        share: from 0 up to, but not including, 1; with 0 the states are returned as they are.
        seed: of the draw.

    Returns:
        the states, and ``teacher_corrupted`` ``(N,)`` bool.

    Raises:
        UserError: as ``check_share``.
    """
    check_share(share, len(rows))
    if share == 0:
        return dict(states)
    drawn = torch.from_numpy(np.random.default_rng([seed, _STREAM]).permutation(rows)[: round(share * len(rows))])
    result = {name: values.clone() for name, values in states.items()}
    for name, values in result.items():
        values[drawn] = states[name][drawn.roll(1)]
    flags = torch.zeros(len(next(iter(result.values()))), dtype=torch.bool)
    flags[drawn] = True
    return {**result, FLAG: flags}
