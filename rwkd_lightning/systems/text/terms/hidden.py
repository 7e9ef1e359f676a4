"""Distance of hidden states from the teacher's, layer by layer (Patient Knowledge Distillation, Sun et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rwkd_lightning.terms.base import Term
from rwkd_lightning.utils.errors import UserError

POOLS = ("cls", "mean")


class HiddenStates(Term):
    """Σ_j ‖h^s_ij/‖h^s_ij‖ − h^t_ij/‖h^t_ij‖‖² ``(B,)`` over pairs j of a student's and a teacher's layer; 0 to 4 a
    pair.

    Reads ``hidden`` ``(B, L, H)`` of the student and ``teacher_hidden`` ``(B, L, H')``, one state per sample. Where the
    widths differ, a learnt linear map per pair takes H to H' first; it belongs to the term, is trained with the student
    and not exported with it.

    Sun et al., Patient Knowledge Distillation for BERT Model Compression, EMNLP 2019, https://arxiv.org/abs/1908.09355,
    section 3.2; the map between widths as in Jiao et al., TinyBERT, https://arxiv.org/abs/1909.10351, equation (8).

    Args:
        layers: ``uniform``: each of the student's M blocks but the last learns from every (L/M)-th of the teacher's
            (PKD-Skip; the last one's is in the logits); ``last``: from the blocks before the teacher's last (PKD-Last);
            or pairs ``[[student, teacher], ...]`` of blocks, counted from 0.
        pool: ``cls``: the first token's state, as published; ``mean``: the mean over the tokens.
        name: as of ``Term``.
        output: what student and teacher give these states out as; None: the term's name, so that several have their
            own.

    Raises:
        UserError: if layers or pool is not one of these; by ``connect``, if a layer does not exist.
    """

    name = "hidden"

    def __init__(
        self,
        layers: str | Sequence[Sequence[int]] = "uniform",
        pool: str = "cls",
        name: str | None = None,
        output: str | None = None,
    ) -> None:
        super().__init__(name, output or name or type(self).name)
        if pool not in POOLS:
            raise UserError(f"`pool={pool!r}` is not known; known are {', '.join(POOLS)}")
        pairs = layers if isinstance(layers, str) else [list(pair) for pair in layers]
        if isinstance(pairs, str) and pairs not in ("uniform", "last"):
            raise UserError(
                f"`layers={layers!r}` is not known; give uniform, last, or pairs of blocks as [[0,1],[1,3]]"
            )
        if not pairs or (not isinstance(pairs, str) and any(len(pair) != 2 for pair in pairs)):
            raise UserError(f"`layers={pairs}`: give pairs of a student's and a teacher's block, as [[0,1],[1,3]]")
        self.layers = pairs
        self.pool = pool
        self.projections = nn.ModuleList()

    def connect(self, student: Any, teacher: Any) -> None:
        pairs = self.pairs(student.num_blocks, teacher.num_blocks)
        for model, side, which in ((student, 0, "student"), (teacher, 1, "teacher")):
            try:
                model.keep(self.output, [pair[side] for pair in pairs], self.pool)
            except UserError as error:
                raise UserError(f"loss_terms.{self.name}.layers={self.layers}, the {which}'s: {error}") from None
        self.projections = nn.ModuleList()
        if student.width != teacher.width:
            with torch.random.fork_rng(
                devices=[]
            ):  # the student of a seed sees the same dropout masks with and without the term
                self.projections.extend(nn.Linear(student.width, teacher.width, bias=False) for _ in pairs)

    def check_tokenizer(self, tokenizer: Any, model: str) -> None:
        """Refuse a tokenizer that puts no token first that stands for the text, where that one's state is read."""
        if self.pool == "cls" and (tokenizer.cls_token_id is None or tokenizer.padding_side == "left"):
            raise UserError(
                f"the term {self.name!r} reads the state of the first token, and the tokenizer of {model!r} puts none "
                f"there that stands for the text; use loss_terms.{self.name}.pool=mean"
            )

    def pairs(self, mine: int, theirs: int) -> list[list[int]]:
        """Pairs of blocks, counted from 0, for a student of ``mine`` and a teacher of ``theirs`` blocks."""
        if not isinstance(self.layers, str):
            return self.layers
        if mine == 1:  # no layer but the last
            return [[0, theirs - 1]]
        if self.layers == "last":
            return [[j, max(0, theirs - mine + j)] for j in range(mine - 1)]
        return [[j - 1, max(1, (2 * j * theirs + mine) // (2 * mine)) - 1] for j in range(1, mine)]  # round(j·L/M)

    def forward(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        mine, theirs = self.prediction(outputs, batch), self.target(batch)
        with torch.autocast(mine.device.type, enabled=False):
            if self.projections:
                mine = torch.stack([to(mine[:, j]) for j, to in enumerate(self.projections)], 1)
            return ((F.normalize(mine, dim=-1) - F.normalize(theirs, dim=-1)) ** 2).sum((1, 2))

    def extra_repr(self) -> str:
        return f"layers={self.layers}, pool={self.pool}"
