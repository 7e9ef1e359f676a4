"""The teacher's layers as its assistants: all of their answers teach the student's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rwkd_lightning.systems.text.terms.layer_kd import places_of
from rwkd_lightning.systems.text.terms.of_layers import answers_key, centred, check_pool, divergence
from rwkd_lightning.terms.base import Term, at_least_float32
from rwkd_lightning.utils.errors import UserError

MIXES = ("attention", "mean", "ascending")


class Assistants(Term):
    """T²·KL from a mixture of the teacher's layers to the student's logits, ``(B,)``, for a much smaller student.

    ``mix=attention``: z = Σ_k a_k·t_k with a = softmax_k(⟨c(s), c(t_k)⟩/√C), T²·KL(softmax(z/T) ‖ softmax(s/T)), the
    answer of the teacher's layers that is nearest; ``mean``: T²·mean_k KL(softmax(t_k/T) ‖ softmax(s/T)) (Asadian,
    Salehi-Abari, 2021, https://arxiv.org/abs/2103.00497); ``ascending``: from the shallowest layer to the teacher's own
    answer as the training goes on, two neighbours mixed, a sequence of assistants (Mirzadeh et al., AAAI 2020) in one
    training.

    That the pseudo classifiers stand in for assistants is Universal-KD's (Wu et al., EMNLP 2021); how they are mixed
    there is not known to us.

    Args:
        mix: as above.
        teacher_layers: ``all``, or a list, counted from 0.
        pool: the state that the teacher's heads read.
        temperature: T > 0.
        name, output: as of ``Term``.

    Raises:
        UserError: if an option is not one of these; by ``connect``, if a layer does not exist.
    """

    name = "assistants"
    needs = frozenset({"probabilities"})
    of_heads = True

    def __init__(
        self,
        mix: str = "attention",
        teacher_layers: str | Sequence[int] = "all",
        pool: str = "cls",
        temperature: float = 2.0,
        name: str | None = None,
        output: str | None = None,
    ) -> None:
        super().__init__(name, output)
        check_pool(pool)
        if mix not in MIXES:
            raise UserError(f"`mix={mix!r}` is not known; known are {', '.join(MIXES)}")
        if not 0 < temperature < float("inf"):
            raise UserError(f"temperature is {temperature}; it must be above 0 (1 to 4 are usual)")
        self.mix, self.pool, self.temperature = mix, pool, temperature
        self.teacher_layers = teacher_layers if isinstance(teacher_layers, str) else list(teacher_layers)
        self.places: list[int] = []

    def connect(self, student: Any, teacher: Any) -> None:
        self.places = places_of(self.name, self.teacher_layers, teacher.num_blocks)

    def forward(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        mine = self.prediction(outputs, batch)
        theirs = at_least_float32(batch[answers_key(self.pool)])[:, self.places].to(mine.dtype)
        if self.mix == "attention":
            energies = (centred(theirs) @ centred(mine)[:, :, None])[:, :, 0] / mine.shape[1] ** 0.5
            each = divergence((energies.softmax(1)[:, :, None] * theirs).sum(1), mine, self.temperature)
        else:
            each = divergence(theirs, mine[:, None], self.temperature)
            each = (each * self.shares(batch, each)).sum(1)
        return self.temperature**2 * each

    def shares(self, batch: Mapping[str, Tensor], each: Tensor) -> Tensor:
        """The part of each layer ``(L,)``."""
        if self.mix == "mean":
            return torch.full_like(each[0], 1 / each.shape[1])
        if "progress" not in batch:
            raise UserError(f"the term {self.name!r}, whose mix ascends, reads batch['progress'], from 0 to 1; add it")
        place = batch["progress"].to(each.dtype) * (each.shape[1] - 1)
        layers = torch.arange(each.shape[1], device=each.device, dtype=each.dtype)
        return (1 - (layers - place).abs()).clamp_min(0)

    def extra_repr(self) -> str:
        return f"mix={self.mix}"
