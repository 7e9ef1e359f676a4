"""What a loss term is: student outputs and a batch to one non-negative number a sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rwkd_lightning.utils.errors import UserError


class Term(nn.Module, ABC):
    """One loss term, per sample."""

    name: str

    regression: bool | None = None
    """True: only for tasks that predict a number; False: only for classes; None: for both."""

    reads: tuple[str, ...] = ("logits",)
    """The student's outputs that it reads. What it reads of the teacher is in the batch, as ``teacher_<name>``."""

    per_token: bool = False
    """Whether it compares student and teacher token by token: they must share a tokenizer, and the teacher runs along."""

    def connect(self, student: Any, teacher: Any) -> None:
        """Make two ``models.Classifier`` give out what the term reads of them; once, before training. For logits: nothing.

        Raises:
            UserError: if the two do not fit each other, or the term.
        """

    @abstractmethod
    def forward(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        """Loss ``(B,)``; exactly 0 with gradient 0 where ``valid`` is False."""

    def valid(self, batch: Mapping[str, Tensor]) -> Tensor:
        """``(B,)``, False where the term has no value for a sample."""
        return torch.ones(len(batch["index"]), dtype=torch.bool, device=batch["index"].device)


def stack(terms: Sequence[Term], outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
    """All terms of all samples, ``(B, K)``."""
    return torch.stack([term(outputs, batch) for term in terms], 1)


def of_teacher(batch: Mapping[str, Tensor], name: str, term: str) -> Tensor:
    """``teacher_<name>`` of the batch; UserError where it is missing."""
    if f"teacher_{name}" not in batch:
        raise UserError(f"the term {term} reads batch['teacher_{name}'], which is not there: give DistillationModule the "
                        "teacher, or put it into the batch yourself")
    return batch[f"teacher_{name}"]


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision raised to float32, in which losses are computed; float32 and float64 as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
