"""Distance of the student's vectors from the mean of the teacher's token vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rwkd_lightning.terms import Term
from rwkd_lightning.terms.base import at_least_float32


class TeacherVectors(Term):
    """l_i = ‖A z_qi − m_qi‖² + ‖A z_di − m_di‖² of a row's query and its own document, ``(B,)``.

    z is the student's vector, m the mean of the teacher's token vectors, A a linear map that is learned where their
    widths differ, and nothing where they do not; it belongs to the term and is not exported. Reads ``query_vectors``
    and ``document_vectors`` ``(B, d)`` of the student, and ``teacher_query_vectors`` and ``teacher_document_vectors``
    ``(B, d')``.

    That vectors of a query and of its document are matched is EmbedDistill's (Kim et al. 2023,
    https://arxiv.org/abs/2301.12005, section 3.2); its teacher has one vector a text, and here it is a mean.
    """

    name = "embedding"
    role = "teacher"
    preference = 2
    needs = frozenset({"candidates"})

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name, "query_vectors")
        self.map: nn.Module = nn.Identity()

    @property
    def reads(self) -> tuple[str, ...]:
        return ("query_vectors", "document_vectors")

    def connect(self, student: Any, teacher: Any) -> None:
        with torch.random.fork_rng(devices=[]):
            same = student.width == teacher.width
            self.map = nn.Identity() if same else nn.Linear(student.width, teacher.width, bias=False)

    def forward(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        total: Tensor | None = None
        for name in self.reads:
            mine, theirs = at_least_float32(outputs[name]), batch[f"teacher_{name}"]
            with torch.autocast(mine.device.type, enabled=False):
                distance = (self.map(mine) - theirs.to(mine.dtype)).square().sum(1)
            total = distance if total is None else total + distance
        assert total is not None
        return total
