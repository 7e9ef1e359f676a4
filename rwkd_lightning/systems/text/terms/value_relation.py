"""How the values of the attention relate to each other, as in the teacher (MiniLM, Wang et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rwkd_lightning.terms.base import Term
from rwkd_lightning.utils.errors import UserError


class ValueRelation(Term):
    """(1/(A·T_i))·Σ_a Σ_t KL(R^t_iat ‖ R^s_iat) ``(B,)`` with R_a = softmax(V_a·V_aᵀ/√d), over heads a and tokens t of
    one layer.

    Reads ``values`` ``(B, 1, T, H)`` of the student and ``teacher_values`` ``(B, 1, T, H')``: what the value projection
    of the layer gives out. Relations are T × T whatever the widths, so none has to be mapped. H and H' are cut into A
    relation heads of widths d = H/A and H'/A, which need not be the models' own heads (MiniLMv2). Padding is neither
    query nor key.

    Wang et al., MiniLM, NeurIPS 2020, https://arxiv.org/abs/2002.10957, section 3.2; relation heads: Wang et al.,
    MiniLMv2, Findings of ACL 2021, https://arxiv.org/abs/2012.15828. MiniLM also compares attention distributions,
    which fused attention does not give out.

    Args:
        heads: A; must divide both widths.
        student_layer: block, counted from 0; None: the last.
        teacher_layer: as that.
        name: as of ``Term``.
        output: what student and teacher give the values out as; None: ``values``, or after a name of its own.

    Raises:
        UserError: if heads is not positive; by ``connect``, if heads do not divide both widths, a block does not exist,
            or a model has no value projection of its own.
    """

    name = "value_relation"
    per_token = True

    output = "values"

    def __init__(
        self,
        heads: int = 16,
        student_layer: int | None = None,
        teacher_layer: int | None = None,
        name: str | None = None,
        output: str | None = None,
    ) -> None:
        super().__init__(name, output or (None if name in (None, type(self).name) else f"{name}_values"))
        if heads < 1:
            raise UserError(f"`heads` is {heads}; it counts relation heads and must be at least 1")
        self.heads = heads
        self.student_layer = student_layer
        self.teacher_layer = teacher_layer

    def connect(self, student: Any, teacher: Any) -> None:
        if student.width % self.heads or teacher.width % self.heads:
            common = math.gcd(student.width, teacher.width)
            fitting = [a for a in range(1, common + 1) if common % a == 0]
            raise UserError(
                f"loss_terms.{self.name}.heads is {self.heads} and must divide the widths of student and teacher, "
                f"{student.width} and {teacher.width}; {', '.join(map(str, fitting))} do"
            )
        for model, layer, which in ((student, self.student_layer, "student"), (teacher, self.teacher_layer, "teacher")):
            try:
                model.keep(self.output, [model.num_blocks - 1 if layer is None else layer], values=True)
            except UserError as error:
                key = f"loss_terms.{self.name}.{which}_layer={'null' if layer is None else layer}"
                raise UserError(f"{key}: {error}") from None

    def forward(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        mine, theirs = self.prediction(outputs, batch), self.target(batch)
        mask = batch["attention_mask"].to(torch.bool)
        with torch.autocast(theirs.device.type, enabled=False):
            log_s, log_t = (self.relations(v[:, 0], mask) for v in (mine, theirs))
            divergence = (log_t.exp() * (log_t - log_s)).sum(-1).mean(1)  # (B, T)
        queries = mask.to(divergence.dtype)
        return (queries * divergence).sum(1) / queries.sum(1)

    def relations(self, values: Tensor, mask: Tensor) -> Tensor:
        """log R ``(B, A, T, T)`` of values ``(B, T, H)``; −10⁴ or less for keys that are padding."""
        rows, tokens, width = values.shape
        parts = values.view(rows, tokens, self.heads, width // self.heads).transpose(1, 2)  # (B, A, T, d)
        scores = parts @ parts.transpose(2, 3) / math.sqrt(parts.shape[-1])
        hidden = torch.logical_not(mask)[:, None, None, :]
        relations: Tensor = scores.masked_fill(hidden, -1e4).log_softmax(-1)  # not −inf: 0·(−inf + inf) is no number
        return relations

    def extra_repr(self) -> str:
        return f"heads={self.heads}"
