"""The meta step for those who only have held-out data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from rwkd_lightning.bilevel import Jvp, RandomState
from rwkd_lightning.data.indexed import held_out
from rwkd_lightning.meta.head import HeadWithBank
from rwkd_lightning.meta.parameters import All
from rwkd_lightning.meta.restriction import Restriction, without_dropout
from rwkd_lightning.meta.step import MetaStep
from rwkd_lightning.terms import Term
from rwkd_lightning.weighting.columns import columns


def standard_meta(student: nn.Module, terms: Sequence[Term], data: Any) -> MetaStep:
    """The meta step by the label terms on held-out data, over the student's head where it has one.

    Args:
        student: as for `DistillationModule`.
        terms: those of the training.
        data: a DataLoader, a map-style dataset (a list of rows too), or a `MetaStream`, known by its method ``all``.

    Raises:
        UserError: where no term reads labels.
    """
    stream = data if hasattr(data, "all") else held_out(data)
    by_label = [terms[k] for k in columns(terms, "label")]
    return MetaStep(Jvp(), standard_theta(student, stream[0]), by_label, stream)


@torch.no_grad()
def standard_theta(student: nn.Module, batch: dict[str, Any]) -> Restriction:
    """The head with its bank where it is linear and the student gives its inputs as ``features``; else the student."""
    if not isinstance(getattr(student, "head", None), nn.Linear):
        return All()
    with RandomState.capture(torch.device("cpu")).replay(), without_dropout(student):
        return HeadWithBank() if "features" in student(batch) else All()
