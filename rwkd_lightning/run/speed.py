"""Settings of torch under which the student's training is faster, and which end with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from rwkd_lightning.bilevel import FiniteDifference
from rwkd_lightning.meta import MetaStep
from rwkd_lightning.utils.errors import UserError

BACKEND = "inductor"
"""Of ``torch.compile``."""


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """Float32 matrices are multiplied as torch's setting of this name has it; afterwards as before: teachers are cached
    for runs of every setting.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def compiled(student: nn.Module, wanted: bool) -> Iterator[None]:
    """The student's passes go through ``torch.compile``, in place, so that its parameters keep their names; afterwards
    as before: what is scored and written is the student itself.
    """
    if wanted:
        student.compile(backend=BACKEND)
    try:
        yield
    finally:
        if wanted:
            student._compiled_call_impl = None


def check_compiles(device: str) -> None:
    """Compile a line of code for this kind of device, before any data is read.

    Raises:
        UserError: where that fails, as without a C++ compiler (CPU) or Triton (GPU).
    """
    try:
        torch.compile(lambda x: x.tanh() + 1, backend=BACKEND)(torch.zeros(2, device=device))
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"trainer.compile=true: torch.compile does not work on this machine's {device} ({reason}); use "
            "trainer.compile=false"
        ) from error


def check_engine(meta: MetaStep | None) -> None:
    """Refuse an engine that differentiates the student's pass in forward mode, or twice.

    Raises:
        UserError: for all but the finite difference, where θ is more than the head.
    """
    if meta is not None and meta.theta.needs_pass and not isinstance(meta.engine, FiniteDifference):
        raise UserError(
            f"trainer.compile=true with meta/engine={meta.engine!r}: only finite differences go through a compiled "
            "student; use meta/engine=finite_difference, meta=bank or trainer.compile=false"
        )
