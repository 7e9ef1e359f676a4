"""θ by name: the whole student, or from its last block on."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torch.func import functional_call

from rwkd_lightning.bilevel import RandomState
from rwkd_lightning.bilevel.engine import Outputs, Parameters
from rwkd_lightning.meta.restriction import (
    Batch,
    MetaStream,
    Restriction,
    View,
    for_held_out,
    to_device,
    without_statistics,
)
from rwkd_lightning.utils.distributed import share
from rwkd_lightning.utils.errors import UserError


class All(Restriction):
    """θ is every trainable parameter of the student."""

    def names(self, student: nn.Module) -> list[str]:
        return [n for n, p in student.named_parameters() if p.requires_grad]

    def reaches(self, student: nn.Module, output: str) -> bool:
        return True

    def view(
        self,
        student: nn.Module,
        batch: Batch,
        outputs: Callable[[], Outputs],
        randomness: RandomState,
        stream: MetaStream,
        step: int,
    ) -> View:
        fixed = {n: p.detach() for n, p in student.named_parameters()}
        own = dict(student.named_parameters())
        theta = {n: own[n] for n in self.names(student) if fixed.pop(n) is not None}  # not detached: see the lookahead
        meta_batch = to_device(share(stream[step]), batch["index"].device)

        def train_outputs(parameters: Parameters) -> Outputs:
            with randomness.replay(), without_statistics(student):
                result = functional_call(student, {**fixed, **parameters}, (batch,))
            return {n: o for n, o in result.items() if n != "features"}

        def meta_outputs(parameters: Parameters) -> tuple[Outputs, Batch]:
            with randomness.replay(), for_held_out(student):  # replayed for a model that draws in evaluation too
                return functional_call(student, {**fixed, **parameters}, (meta_batch,)), meta_batch

        return View(theta, train_outputs, meta_outputs)

    def __repr__(self) -> str:
        return "all"


class LastBlock(All):
    """θ is the last transformer block and what follows it; the blocks below run without a graph.

    A parameter that is shared with a lower block is no part of it.

    Raises:
        UserError: by ``check``, for a student without blocks, or without a trainable parameter there.
    """

    def check(self, student: nn.Module) -> None:
        if not hasattr(student, "block_names"):
            raise UserError(
                f"`theta=LastBlock()`: this student ({type(student).__name__}) has no blocks; use `theta=All()`"
            )
        if not self.names(student):
            raise UserError(
                "`theta=LastBlock()`: every parameter from the student's last block on is frozen; use `theta=All()`"
            )

    def names(self, student: nn.Module) -> list[str]:
        names: list[str] = student.block_names()  # type: ignore[operator]
        theirs = dict(uncompiled(student).named_parameters())
        wanted = {id(theirs[name]) for name in names}
        return [n for n, p in student.named_parameters() if id(p) in wanted]

    def reaches(self, student: nn.Module, output: str) -> bool:
        kept: dict[str, list[int]] = getattr(student, "kept_layers", {})
        return output not in kept or max(kept[output]) + 1 == student.num_blocks

    def __repr__(self) -> str:
        return "last_block"


def uncompiled(student: nn.Module) -> nn.Module:
    """The student inside ``torch.compile``, which gives its parameters other names."""
    inside = getattr(student, "_orig_mod", None)
    return inside if isinstance(inside, nn.Module) else student
