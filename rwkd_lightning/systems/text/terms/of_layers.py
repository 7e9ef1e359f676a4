"""What the terms over layers share: the student's own heads, and the answers of the teacher's blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rwkd_lightning.systems.text.models.wrapping import unwrapped
from rwkd_lightning.terms.base import Term
from rwkd_lightning.utils.errors import UserError

POOLS = ("cls", "mean")


def answers_key(pool: str) -> str:
    """The batch's entry with the logits of the teacher's blocks, ``(B, L, C)``."""
    return f"teacher_layer_logits_{pool}"


def check_pool(pool: str) -> None:
    """Raise UserError for a state that there is not."""
    if pool not in POOLS:
        raise UserError(f"`pool={pool!r}` is not known; known are {', '.join(POOLS)}")


class OfLayers(Term):
    """A term with a linear head on each of some of the student's blocks; they belong to the term and are not exported.

    Args:
        student_layers: ``inner``: all blocks but the last, whose answer is the student's own (of one block: that);
            ``all``; or a list, counted from 0.
        pool: the state that a head reads: ``cls`` or ``mean``.
        part: of these blocks this one alone, counted from 0; None: the mean over them.
    """

    def __init__(
        self, student_layers: str | Sequence[int], pool: str, part: int | None, name: str | None, output: str | None
    ) -> None:
        super().__init__(name, output or name or type(self).name)
        check_pool(pool)
        layers = student_layers if isinstance(student_layers, str) else list(student_layers)
        if layers not in ("inner", "all") and (isinstance(layers, str) or not layers):
            raise UserError(f"`student_layers={student_layers!r}` is not known; give inner, all, or a list of blocks")
        self.student_layers, self.pool, self.part = layers, pool, part
        self.weight, self.bias = nn.Parameter(torch.zeros(0)), nn.Parameter(torch.zeros(0))

    def connect(self, student: Any, teacher: Any) -> None:
        layers = self.blocks_of(student.num_blocks)
        if self.part is not None:
            if not 0 <= self.part < len(layers):
                raise UserError(
                    f"terms: {self.name!r} names part {self.part}, and the student has {len(layers)}, {layers}; "
                    f"give {self.name.rpartition('.')[0]}.0 to .{len(layers) - 1}"
                )
            layers = [layers[self.part]]
        try:
            student.keep(self.output, layers, self.pool)
        except UserError as error:
            raise UserError(f"loss_terms.{self.name}.student_layers={self.student_layers}: {error}") from None
        config: Any = unwrapped(student.network).config
        with torch.random.fork_rng(devices=[]):  # the student of a seed begins alike with and without the term
            heads = [nn.Linear(student.width, config.num_labels) for _ in layers]
        self.weight = nn.Parameter(torch.stack([head.weight.detach() for head in heads]))
        self.bias = nn.Parameter(torch.stack([head.bias.detach() for head in heads]))

    def check_tokenizer(self, tokenizer: Any, model: str) -> None:
        """Refuse a tokenizer that puts no token first that stands for the text, where that one's state is read."""
        if self.pool == "cls" and (tokenizer.cls_token_id is None or tokenizer.padding_side == "left"):
            raise UserError(
                f"the term {self.name!r} reads the state of the first token, and the tokenizer of {model!r} puts none "
                f"there that stands for the text; use loss_terms.{self.name}.pool=mean"
            )

    def blocks_of(self, count: int) -> list[int]:
        """The student's blocks, of ``count``."""
        if not isinstance(self.student_layers, str):
            return self.student_layers
        return list(range(count if self.student_layers == "all" or count == 1 else count - 1))

    def own(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        """s ``(B, M, C)``, what the heads say of states ``(B, M, H)``."""
        states = self.prediction(outputs, batch)
        with torch.autocast(states.device.type, enabled=False):
            return torch.einsum("bmh,mch->bmc", states, self.weight.to(states.dtype)) + self.bias.to(states.dtype)


def divergence(theirs: Tensor, mine: Tensor, temperature: float) -> Tensor:
    """KL(softmax(t/T) ‖ softmax(s/T)) over the last axis."""
    log_q, log_p = ((x / temperature).log_softmax(-1) for x in (theirs, mine))
    return (log_q.exp() * (log_q - log_p)).sum(-1)


def centred(logits: Tensor) -> Tensor:
    """Minus their mean over the classes, which says nothing."""
    return logits - logits.mean(-1, keepdim=True)


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """``(B, M)`` of logits ``(B, M, C)``."""
    return F.cross_entropy(
        logits.transpose(1, 2), labels[:, None].expand(-1, logits.shape[1]).clamp_min(0), reduction="none"
    )
