"""Which part θ of the student the meta step differentiates by: all of it, its last block, or its head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rwkd_lightning.bilevel import RandomState
from rwkd_lightning.bilevel.engine import Outputs, Parameters

Batch = Mapping[str, Tensor]


@dataclass
class View:
    """The student as functions of θ: on the training batch, and on held-out samples with their targets."""

    parameters: Parameters
    outputs: Callable[[Parameters], Outputs]
    meta_outputs: Callable[[Parameters], tuple[Outputs, Batch]]
    derivative: Callable[[Parameters], Outputs] | None = None
    """∂outputs/∂θ along a direction, where the outputs are linear in θ; exact, without a pass in forward mode."""


class MetaStream(Protocol):
    """Held-out batches by step: an endless seeded sequence with random access, so it has no state to save."""

    def __getitem__(self, step: int) -> dict[str, Tensor]: ...

    def __len__(self) -> int: ...

    def all(self, batch_size: int) -> Iterator[dict[str, Tensor]]: ...


class Restriction(nn.Module, ABC):
    """Builds the view of the student for one meta step."""

    needs_pass: bool = True
    """Whether the engine runs the student on the training batch again; else its outputs from the training pass do. If
    it does, θ is some of the student's own parameters, by their names.
    """

    def check(self, student: nn.Module) -> None:
        """Raise UserError if the student has no such part, or if it is not trained; asked before anything is."""

    def build(self, student: nn.Module, stream: MetaStream) -> None:
        """Make room for what is kept between steps; called before training, so that a checkpoint finds its buffers."""

    @abstractmethod
    def reaches(self, student: nn.Module, output: str) -> bool:
        """Whether the student's output of this name depends on θ; a term that reads none that does has no influence."""

    @abstractmethod
    def view(
        self,
        student: nn.Module,
        batch: Batch,
        outputs: Callable[[], Outputs],
        randomness: RandomState,
        stream: MetaStream,
        step: int,
    ) -> View:
        """Args:
        student: called with a batch, returns outputs by name.
        batch: the training batch.
        outputs: gives the student's outputs on it; the first call may be the training pass.
        randomness: the state of the generators before that pass.
        stream: held-out batches, ``stream[step]``.
        step: number of meta steps taken so far.
        """


@contextmanager
def without_dropout(student: nn.Module) -> Iterator[None]:
    """Evaluation mode for the held-out samples: less noise in v, and fused attention on a CPU."""
    modes = [(module, module.training) for module in student.modules()]
    student.eval()
    try:
        yield
    finally:
        for module, mode in modes:  # one by one: parts of a student may be held in evaluation mode
            module.training = mode


@contextmanager
def for_held_out(student: nn.Module) -> Iterator[None]:
    """Evaluation mode but for batch normalisation, which takes the statistics of the batch, as in training.

    The running ones stand still where θ moves, so what they let pass into v is a change of scale that the training pass
    undoes (docs/topics.md).
    """
    modes = [(m, m.training) for m in student.modules() if isinstance(m, _BatchNorm)]
    with without_dropout(student), without_statistics(student):
        for module, mode in modes:
            module.training = mode
        yield


@contextmanager
def without_statistics(student: nn.Module) -> Iterator[None]:
    """Passes in which batch normalisation does as in training and leaves its running statistics as they are."""
    kept = [m for m in student.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for module in kept:
        module.track_running_stats = (
            False  # in training the batch's own are used then, in evaluation the running ones, as ever
        )
    try:
        yield
    finally:
        for module in kept:
            module.track_running_stats = True


def to_device(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """The batch's tensors on the device."""
    return {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}
