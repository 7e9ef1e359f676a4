"""Terms that compare the rows of a batch, where the rows of a batch are dealt to several processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rwkd_lightning.utils.distributed import gather_objects, gather_rows, gather_together, rank, world_size
from rwkd_lightning.utils.errors import UserError

if TYPE_CHECKING:
    from rwkd_lightning.terms.base import Term


def of_all_ranks(term: Term, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
    """The losses ``(B,)`` of this process's rows, compared with the rows of all processes.

    Each process has B rows. The gradient of the mean over all rows is that of one process with the whole batch, once
    the processes average theirs, as DDP does: what one process's losses say of another one's outputs goes back there.
    An entry of the batch whose shape beyond the first axis is not the same everywhere (padded tokens) is left out.
    """
    rows = len(batch["index"])
    sized = {name: x for name, x in batch.items() if isinstance(x, Tensor) and x.ndim and len(x) == rows}
    read = {name: outputs[name] for name in term.reads if name in outputs}
    shapes = gather_objects([{name: tuple(x.shape) for name, x in entries.items()} for entries in (sized, read)])
    for name in read:
        if len(of_ranks := {of_read[name] for _, of_read in shapes}) > 1:
            raise UserError(
                f"the term {term.name!r} compares the rows of all processes, whose {name!r} have the shapes "
                f"{sorted(of_ranks)}; give all processes as many rows, and the term an output of one shape"
            )
    alike = {name: x for name, x in sized.items() if all(one.get(name) == tuple(x.shape) for one, _ in shapes)}
    whole = dict(zip(alike, gather_together(*alike.values()), strict=True))
    scalars = {name: x for name, x in batch.items() if name not in sized}
    losses: Tensor = term({name: gather(x) for name, x in read.items()}, {**scalars, **whole})
    return losses[rank() * rows : (rank() + 1) * rows]


def gather(rows: Tensor) -> Tensor:
    """The rows ``(B, ...)`` of all processes, ``(world·B, ...)``, with a gradient of any order."""
    gathered: Tensor = Gather.apply(rows)  # type: ignore[no-untyped-call]
    return gathered


class Gather(torch.autograd.Function):
    """Rows of one process to those of all; the gradient of its own rows is the sum over all processes."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        return gather_rows(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        own: Tensor = SumOfOwn.apply(gradients[0])  # type: ignore[no-untyped-call]
        return own


class SumOfOwn(torch.autograd.Function):
    """The transpose of `Gather`: values of all rows, summed over the processes, to those of one's own rows."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.detach().clone()
        torch.distributed.all_reduce(total)
        size = len(total) // world_size()
        return total[rank() * size : (rank() + 1) * size].contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gather(gradients[0])
