"""θ is the head that answers to text and picture, to the text and to the picture: one bank of what it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rwkd_lightning.bilevel import FeatureBank, RandomState
from rwkd_lightning.bilevel.engine import Outputs, Parameters
from rwkd_lightning.meta import HeadWithBank, MetaStream
from rwkd_lightning.meta.head import linear_head
from rwkd_lightning.meta.restriction import Batch, View, to_device, without_dropout
from rwkd_lightning.systems.multimodal.fusion import BOTH, SUFFIX, Fusion
from rwkd_lightning.utils.distributed import gather_rows, share
from rwkd_lightning.utils.errors import UserError


class ModalityBank(FeatureBank):
    """As `FeatureBank`; the pictures' features are no targets."""

    def place(self, batch: Mapping[str, Tensor]) -> None:
        super().place({name: value for name, value in batch.items() if name != "visual_embeds"})


class HeadOverModalities(HeadWithBank):
    """As `HeadWithBank`, of a student whose head gives several outputs: all are linear in its weight and bias.

    The bank holds what the head reads of the passes that the meta loss asks for, side by side.

    Args:
        passes: of the student, as `Fusion.passes`.
        asked: those of the meta loss.
    """

    def __init__(self, passes: Sequence[str], asked: Sequence[str] = (BOTH,)) -> None:
        super().__init__()
        self.suffixes = {kind: SUFFIX[kind] if place else "" for place, kind in enumerate(passes)}
        self.asked = [kind for kind in passes if kind in asked]

    @classmethod
    def of(cls, theta: HeadWithBank, passes: Sequence[str], asked: Sequence[str] = (BOTH,)) -> HeadOverModalities:
        """In place of one of a single output.

        Raises:
            UserError: for one that is centred.
        """
        if theta.centre:
            raise UserError(
                "meta.theta.centre=true is not for text and picture, whose head gives several outputs; set "
                "meta.theta.centre=false"
            )
        return cls(passes, asked)

    def reaches(self, student: nn.Module, output: str) -> bool:
        return output in [f"logits{suffix}" for suffix in self.suffixes.values()]

    def build(self, student: nn.Module, stream: MetaStream) -> None:
        head = linear_head(student)
        self.bank = ModalityBank(len(stream), head.in_features * len(self.asked), head.weight.dtype)
        self.plan(stream)

    def view(
        self,
        student: nn.Module,
        batch: Batch,
        outputs: Callable[[], Outputs],
        randomness: RandomState,
        stream: MetaStream,
        step: int,
    ) -> View:
        head = linear_head(student)
        kept, meta_batch = self.held_out(student, stream, step, head.weight.device)
        held = {f"logits{self.suffixes[kind]}": x for kind, x in zip(self.asked, self.parts(kept), strict=True)}
        seen = outputs()
        features = {f"logits{suffix}": seen[f"features{suffix}"].detach() for suffix in self.suffixes.values()}
        theta = {"weight": head.weight.detach()}
        if head.bias is not None:
            theta["bias"] = head.bias.detach()

        def apply(parameters: Parameters, inputs: Mapping[str, Tensor]) -> Outputs:
            weight = parameters["weight"]
            with torch.autocast(weight.device.type, enabled=False):
                return {
                    name: F.linear(x.to(weight.dtype), weight, parameters.get("bias")) for name, x in inputs.items()
                }

        return View(
            theta,
            lambda p: apply(p, features),
            lambda p: (apply(p, held), meta_batch),
            lambda direction: apply(direction, features),
        )

    def parts(self, kept: Tensor) -> tuple[Tensor, ...]:
        """What is kept ``(M, n·H)``, by pass."""
        return kept.chunk(len(self.asked), 1)

    def held_out(self, student: nn.Module, stream: MetaStream, step: int, device: torch.device) -> tuple[Tensor, Batch]:
        if self.bank is None:
            self.build(student, stream)
        assert self.bank is not None
        self.bank.to(device)
        if not self.bank.targets:
            for batch in stream.all(64):
                self.bank.place(to_device(batch, device))
        if not self.bank.filled:
            for batch in stream.all(64):
                on_device = to_device(batch, device)
                self.bank.refresh(self.read(student, on_device), on_device)
        elif step % self.every == 0:
            wide = stream if self.wide is None else self.wide
            on_device = to_device(share(wide[step // self.every]), device)
            features = self.read(student, on_device)
            self.bank.refresh(gather_rows(features), {"index": gather_rows(on_device["index"])})
        return self.bank.features, self.bank.targets

    @torch.no_grad()
    def read(self, student: nn.Module, batch: Batch) -> Tensor:
        """What the head reads of these rows in the passes that are asked for, ``(m, n·H)``, without dropout."""
        if not isinstance(student, Fusion):
            raise UserError(f"{self!r} needs a student of text and picture, and this is a {type(student).__name__}")
        with without_dropout(student):
            return torch.cat([student.features(batch, kind) for kind in self.asked], 1)


def over_modalities(meta: Any, student: Fusion) -> Any:
    """A meta step whose bank holds what the meta loss asks of this student, where it has a bank; others as they are."""
    if meta is not None and type(meta.theta) is HeadWithBank:
        by_output = dict(zip(student.head_outputs, student.passes, strict=True))
        read = {name for term in meta.loss_terms for name in term.reads}
        asked = [kind for name, kind in by_output.items() if name in read]
        meta.theta = HeadOverModalities.of(meta.theta, student.passes, asked)
    return meta
