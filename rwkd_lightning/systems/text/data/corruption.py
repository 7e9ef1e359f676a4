"""Corruptions with a known truth, to see whether learned weights find them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rwkd_lightning.systems.text.data.task import UNLABELLED
from rwkd_lightning.utils.errors import UserError

# Without these, all corruptions would hit the same rows, or by the same draws, whenever they get the same seed.
_LABEL_STREAM, _TEACHER_STREAM, _META_STREAM = 21, 22, 23


def flip_labels(
    labels: Tensor, share: float, num_classes: int, seed: int, kind: str = "uniform"
) -> tuple[Tensor, Tensor]:
    """Give `round(share * labelled)` of the labelled rows another class: labels `(N,)`, flags `(N,)` bool.

    `kind` is `uniform`, any other class, or `pair`, the next one and for the last the first, so that each class is
    taken for one alone (Han et al., Co-teaching, NeurIPS 2018, section 4). Unlabelled rows (-1) stay. UserError for a
    share outside [0, 1), and for regression where share > 0.
    """
    _check(share, num_classes, "data.label_noise")
    flipped, flags = _flip(labels, share, num_classes, np.random.default_rng([seed, _LABEL_STREAM]))
    if kind == "pair":
        flipped = torch.where(flags, (labels + 1) % max(1, num_classes), labels)
    return flipped, flags


def flip_meta_labels(labels: Tensor, share: float, num_classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """As `flip_labels`, for the meta split: the same seed gives other draws."""
    _check(share, num_classes, "data.meta_noise")
    return _flip(labels, share, num_classes, np.random.default_rng([seed, _META_STREAM]))


def choose_rows(size: int, num_classes: int, share: float, seed: int) -> Tensor:
    """Flag `round(share * N)` of N rows, whose teacher logits are to be rolled: `(N,)` bool.

    UserError for a share outside [0, 1), and for regression (C = 1) where share > 0.
    """
    _check(share, num_classes, "data.teacher_noise")
    rng = np.random.default_rng([seed, _TEACHER_STREAM])
    flags = torch.zeros(size, dtype=torch.bool)
    flags[torch.from_numpy(rng.permutation(size)[: round(share * size)])] = True
    return flags


def roll_teacher(logits: Tensor, flags: Tensor) -> Tensor:
    """Roll the teacher logits `(N, ..., C)` of the flagged rows by one class."""
    return torch.where(flags.view(-1, *[1] * (logits.ndim - 1)), logits.roll(1, dims=-1), logits)


def _flip(labels: Tensor, share: float, num_classes: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    labelled = torch.nonzero(labels != UNLABELLED).flatten().cpu().numpy()
    flags = torch.zeros(len(labels), dtype=torch.bool)
    rows = torch.from_numpy(rng.permutation(labelled)[: round(share * len(labelled))])
    result = labels.clone()
    if len(rows):
        steps = torch.from_numpy(rng.integers(1, num_classes, size=len(rows)))  # 1 to C - 1: never the same class
        result[rows] = ((result[rows] + steps) % num_classes).to(result.dtype)
        flags[rows] = True
    return result, flags


def _check(share: float, num_classes: int, key: str) -> None:
    if not 0 <= share < 1:
        raise UserError(f"{key} is {share}; give a number from 0 up to, but not including, 1")
    if share > 0 and num_classes < 2:
        raise UserError(f"{key}={share} is refused for regression, which has no other class; set {key}=0")
