"""Layers compared by what they would answer (Universal-KD, Wu et al., EMNLP 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rwkd_lightning.systems.text.terms.of_layers import OfLayers, answers_key, centred, divergence
from rwkd_lightning.terms.base import at_least_float32
from rwkd_lightning.utils.errors import UserError

ENERGIES = ("dot", "divergence", "learned", "uniform", "permuted")
OVER = ("logits", "losses")


class LayerKD(OfLayers):
    """Each of the student's layers j learns from a mixture of the teacher's layers k, by an attention over answers.

    With s_j the logits of the student's head, t_k those of the teacher's and c(·) minus the mean over C classes:

        a_jk = softmax_k(e_jk)
        over=logits: z_j = Σ_k a_jk·t_k, l_j = T²·KL(softmax(z_j/T) ‖ softmax(s_j/T))
        over=losses: l_j = T²·Σ_k a_jk·KL(softmax(t_k/T) ‖ softmax(s_j/T))

    and the sample's loss ``(B,)`` is the mean over j. Reads states ``(B, M, H)`` of the student and
    ``teacher_layer_logits_<pool>`` ``(B, L, C)``.

    Wu et al., Universal-KD: Attention-based Output-Grounded Intermediate Layer Knowledge Distillation, EMNLP 2021,
    https://aclanthology.org/2021.emnlp-main.603. That layers are compared in the output space by an attention is the
    paper's; which energy it takes is not known to us.

    Args:
        energy: e: ``dot`` ⟨c(s), c(t)⟩/√C; ``divergence`` −KL(softmax(t/T) ‖ softmax(s/T)); ``learned``, a number for
            each pair of layers, no sample; ``uniform``. ``permuted`` is a control: the attention of ``dot``, dealt to
            the next layer.
        over: ``logits`` or ``losses``.
        attention_gradient: whether the attention is differentiated too.
        teacher_layers: ``all``, or a list, counted from 0; the last one's answer is the teacher's own.
        temperature: T > 0.
        student_layers, pool, part: as of `OfLayers`.
        name, output: as of ``Term``.

    Raises:
        UserError: if an option is not one of these; by ``connect``, if a layer does not exist.
    """

    name = "layer_kd"
    needs = frozenset({"probabilities"})
    of_heads = True

    def __init__(
        self,
        energy: str = "dot",
        over: str = "logits",
        attention_gradient: bool = True,
        student_layers: str | Sequence[int] = "inner",
        teacher_layers: str | Sequence[int] = "all",
        pool: str = "cls",
        temperature: float = 2.0,
        part: int | None = None,
        name: str | None = None,
        output: str | None = None,
    ) -> None:
        super().__init__(student_layers, pool, part, name, output)
        for key, value, known in (("energy", energy, ENERGIES), ("over", over, OVER)):
            if value not in known:
                raise UserError(f"`{key}={value!r}` is not known; known are {', '.join(known)}")
        if not 0 < temperature < float("inf"):
            raise UserError(f"temperature is {temperature}; it must be above 0 (1 to 4 are usual)")
        self.energy, self.over, self.attention_gradient = energy, over, attention_gradient
        self.teacher_layers = teacher_layers if isinstance(teacher_layers, str) else list(teacher_layers)
        if isinstance(self.teacher_layers, str) and self.teacher_layers != "all":
            raise UserError(f"`teacher_layers={teacher_layers!r}` is not known; give all, or a list of blocks")
        self.temperature = temperature
        self.places: list[int] = []
        if energy == "learned":
            self.scores = nn.Parameter(torch.zeros(0))

    def connect(self, student: Any, teacher: Any) -> None:
        super().connect(student, teacher)
        self.places = places_of(self.name, self.teacher_layers, teacher.num_blocks)
        if self.energy == "learned":
            self.scores = nn.Parameter(torch.zeros(len(self.weight), len(self.places)))

    def forward(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        mine = self.own(outputs, batch)
        theirs = at_least_float32(batch[answers_key(self.pool)])[:, self.places].to(mine.dtype)
        attention = self.attention(mine, theirs)
        if self.over == "logits":
            each = divergence(attention @ theirs, mine, self.temperature)
        else:
            each = (attention * divergence(theirs[:, None], mine[:, :, None], self.temperature)).sum(2)
        return self.temperature**2 * each.mean(1)

    def attention(self, mine: Tensor, theirs: Tensor) -> Tensor:
        """a ``(B, M, L)`` of logits ``(B, M, C)`` and ``(B, L, C)``."""
        if self.energy in ("dot", "permuted"):
            energies = centred(mine) @ centred(theirs).transpose(1, 2) / mine.shape[2] ** 0.5
        elif self.energy == "divergence":
            energies = -divergence(theirs[:, None], mine[:, :, None], self.temperature)
        elif self.energy == "learned":
            energies = self.scores.to(mine.dtype).expand(len(mine), -1, -1)
        else:
            energies = mine.new_zeros(len(mine), mine.shape[1], theirs.shape[1])
        found: Tensor = energies.softmax(2)
        if self.energy == "permuted":
            found = found.roll(1, 2)
        return found if self.attention_gradient else found.detach()

    def extra_repr(self) -> str:
        return f"energy={self.energy}, over={self.over}"


def places_of(name: str, layers: str | Sequence[int], count: int) -> list[int]:
    """The teacher's blocks, of ``count``; UserError for one that does not exist."""
    if isinstance(layers, str):
        return list(range(count))
    wrong = [layer for layer in layers if not 0 <= layer < count]
    if wrong or not layers:
        raise UserError(f"loss_terms.{name}.teacher_layers={list(layers)}: the teacher has the blocks 0 to {count - 1}")
    return list(layers)
