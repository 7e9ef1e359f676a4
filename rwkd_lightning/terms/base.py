"""The base of all loss terms: from student outputs and a batch to one non-negative number per sample."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import torch
from torch import Tensor, nn

from rwkd_lightning.terms.in_batch import of_all_ranks
from rwkd_lightning.utils.distributed import world_size
from rwkd_lightning.utils.errors import UserError

OF_TEACHER = ("teacher", "annealed")
"""Roles that speak for the teacher."""


class Term(nn.Module, ABC):
    """One loss term, per sample: a name of its own, the output it reads, and the role it plays.

    Args:
        name: what its weights, losses and influence are kept under; None: the class's own. Unique within a run.
        output: the student's output that it reads; None: the class's own.
        teacher_output: the teacher's output that it is compared with, in the batch as ``teacher_<name>``; None: as
            ``output``.
        mask: name of the batch's entry that is true at the valid positions ``(B, T)`` of outputs ``(B, T, V)``, over
            which a sample's loss is the mean; None: all of them are valid.

    Raises:
        UserError: for a name that is empty or no text.
    """

    name: str

    output: str = "logits"

    role: str = "regulariser"
    """``label``: it speaks for the labels or the data itself; ``teacher``: for the teacher; ``annealed``: for a teacher
    whose target grows with the training; ``regulariser``: any other. Methods with a rule for labels and teachers find
    them by this.
    """

    preference: int | None = None
    """Of several terms of a role that state one, those with the lowest alone play it; None: it always does. For terms
    that are measures of one and the same distance.
    """

    needs: AbstractSet[str] = frozenset()
    """Kinds that a task must provide: ``classes``, ``numbers``, ``labels`` (several per row), ``words``, or
    ``probabilities`` (over classes or words).
    """

    in_batch: bool = False
    """Whether a sample's loss depends on the other rows of its batch: then a batch is not cut in parts, and of several
    processes each one compares its rows with those of all.
    """

    per_token: bool = False
    """Whether it compares student and teacher token by token: they must share a tokenizer, and the teacher runs
    along.
    """

    regression: bool | None = None
    """Of version 0.1, until version 0.3: ``needs`` says it now."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        stated = cls.__dict__.get("regression")
        if stated is None:
            cls.regression = True if "numbers" in cls.needs else False if cls.needs else None
        elif "needs" not in cls.__dict__:
            wanted = "numbers" if stated else "probabilities"
            warnings.warn(
                f"{cls.__name__}.regression={stated} is needs={{{wanted!r}}} now; the old spelling goes with version "
                "0.3",
                FutureWarning,
                stacklevel=2,
            )
            cls.needs = frozenset({wanted})

    def __init__(
        self,
        name: str | None = None,
        output: str | None = None,
        teacher_output: str | None = None,
        mask: str | None = None,
    ) -> None:
        super().__init__()
        self.name = getattr(type(self), "name", type(self).__name__) if name is None else name
        if not isinstance(self.name, str) or not self.name:
            raise UserError(
                f"a {type(self).__name__} is called {self.name!r}; a loss term's name is a text that is not empty"
            )
        self.output = type(self).output if output is None else output
        self.teacher_output = self.output if teacher_output is None else teacher_output
        self.mask = mask

    @property
    def reads(self) -> tuple[str, ...]:
        """The student's outputs that it reads. What it reads of the teacher is in the batch, as ``teacher_<name>``."""
        return (self.output,)

    @property
    def kind(self) -> tuple[Any, ...]:
        """Class and options: two terms without tensors of their own, of which these are equal, compute the same."""
        own = id(self) if self.state_dict() else None
        options = {key: value for key, value in vars(self).items() if key[0] != "_" and key not in ("name", "training")}
        return type(self), own, options

    def connect(self, student: Any, teacher: Any) -> None:
        """Make student and teacher give out what the term reads of them, once, before training; nothing for logits.

        Raises:
            UserError: if the two do not fit each other, or the term.
        """

    @abstractmethod
    def forward(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        """Loss ``(B,)``; exactly 0 with gradient 0 where ``valid`` is False."""

    def valid(self, batch: Mapping[str, Tensor]) -> Tensor:
        """``(B,)``, False where the term has no value for a sample."""
        positions = self.positions(batch)
        if positions is not None:
            return positions.flatten(1).any(1) if positions.ndim > 1 else positions
        return torch.ones(len(batch["index"]), dtype=torch.bool, device=batch["index"].device)

    def prediction(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        """The output that it reads, in float32 at least and 0 where the mask is false.

        Raises:
            UserError: if the student does not give it, or the mask does not fit it.
        """
        if self.output not in outputs:
            raise UserError(
                f"the term {self.name!r} reads the student's output {self.output!r}, and it gives "
                f"{', '.join(outputs)}; set the term's output to one of these"
            )
        return self.masked(at_least_float32(outputs[self.output]), batch)

    def target(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The teacher's output that it is compared with, as ``prediction``."""
        return self.masked(at_least_float32(of_teacher(batch, self.teacher_output, self.name)), batch)

    def positions(self, batch: Mapping[str, Tensor]) -> Tensor | None:
        """Where the term has a value, ``(B,)`` or ``(B, T)``; None: everywhere.

        That is where its mask is true, and for a term that speaks for the teacher only in rows ``(B,)`` where
        ``teacher_<name>_known`` is, if the batch has such an entry: the teacher may have said nothing of a row.

        Raises:
            UserError: if the batch lacks the mask.
        """
        known = batch.get(f"teacher_{self.teacher_output}_known") if self.role in OF_TEACHER else None
        if self.mask is None:
            return known
        if self.mask not in batch:
            raise UserError(
                f"the term {self.name!r} has mask={self.mask!r}, and the batch has no such entry; it has "
                f"{', '.join(batch)}"
            )
        mask = batch[self.mask].to(torch.bool)
        return mask if known is None else mask & known.reshape(-1, *[1] * (mask.ndim - 1))

    def masked(self, values: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Values ``(B, ..., V)``, 0 at positions that are not valid: these must not reach a gradient."""
        positions = self.positions(batch)
        if positions is None:
            return values
        if self.mask is None:  # known rows
            positions = positions.reshape(-1, *[1] * (values.ndim - 2)).expand(values.shape[:-1])
        if positions.shape != values.shape[:-1]:
            raise UserError(
                f"the term {self.name!r}: its mask {self.mask!r} is {tuple(positions.shape)} and what it reads "
                f"{tuple(values.shape)}; the mask must be {tuple(values.shape[:-1])}"
            )
        return torch.where(positions[..., None], values, 0)

    def per_sample(self, values: Tensor, positions: Tensor | None) -> Tensor:
        """Mean ``(B,)`` of values ``(B, ...)`` over the valid positions of each sample; 0 where it has none."""
        if positions is None:
            return values.flatten(1).mean(1) if values.ndim > 1 else values
        if positions.ndim < values.ndim:  # rows
            positions = positions.reshape(-1, *[1] * (values.ndim - 1)).expand(values.shape)
        kept = torch.where(positions, values, 0)
        if values.ndim == 1:
            return kept
        return kept.flatten(1).sum(1) / positions.flatten(1).sum(1).clamp_min(1)


def stack(terms: Sequence[Term], outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
    """All terms of all samples, ``(B, K)``; one that compares rows sees those of all processes."""
    return torch.stack(of_each(terms, outputs, batch), 1)


def of_each(terms: Sequence[Term], outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> list[Tensor]:
    """``stack`` term by term, ``(B,)`` each."""
    dealt = world_size() > 1
    return [of_all_ranks(t, outputs, batch) if t.in_batch and dealt else t(outputs, batch) for t in terms]


def of_teacher(batch: Mapping[str, Tensor], name: str, term: str) -> Tensor:
    """``teacher_<name>`` of the batch; UserError where it is missing."""
    if f"teacher_{name}" not in batch:
        raise UserError(
            f"the term {term} reads batch['teacher_{name}'], which is not there: give DistillationModule the "
            "teacher, or put it into the batch yourself"
        )
    return batch[f"teacher_{name}"]


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision raised to float32, in which losses are computed; float32 and float64 as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
