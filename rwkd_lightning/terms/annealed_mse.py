"""Squared distance from the annealed teacher logits (Annealing-KD, Jafari et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from rwkd_lightning.terms.base import Term
from rwkd_lightning.utils.errors import UserError


class AnnealedMSE(Term):
    """mean_c (s_ic − φ(T)·t_ic)² with φ(T) = 1 − (T − 1)/T_max, from ``logits`` and ``teacher_logits``, both ``(B,
    C)``.

    T falls from T_max to 1 over the first stage, so φ grows from 1/T_max to 1; later it stays there. The mean over the
    classes is the released code's (``mse_loss``). There T falls by 1 every so many epochs; fine-tuning has a few epochs
    in all, so here it falls linearly with ``batch["progress"]``, the share of the training done (a scalar; the module
    puts it into the batch). For a regression C = 1.

    Jafari et al., Annealing Knowledge Distillation, EACL 2021, https://arxiv.org/abs/2104.07163, section 3.

    Args:
        max_temperature: T_max ≥ 1; 1: plain squared error to the teacher throughout.
        stage_one: share of the training over which T falls, in (0, 1]; that of ``weighting.AnnealingKD``.
        name, output, teacher_output, mask: as of ``Term``.

    Raises:
        UserError: if one of them is out of range, or if the batch does not say its progress.
    """

    name = "annealed_mse"
    role = "annealed"

    def __init__(
        self,
        max_temperature: float = 10.0,
        stage_one: float = 0.75,
        name: str | None = None,
        output: str | None = None,
        teacher_output: str | None = None,
        mask: str | None = None,
    ) -> None:
        super().__init__(name, output, teacher_output, mask)
        if not 1 <= max_temperature < float("inf"):
            raise UserError(
                f"loss_terms.{self.name}.max_temperature is {max_temperature}; it must be at least 1 (10 is usual)"
            )
        if not 0 < stage_one <= 1:
            raise UserError(
                f"loss_terms.{self.name}.stage_one is {stage_one}; the share of the training must lie in (0, 1]"
            )
        self.max_temperature = max_temperature
        self.stage_one = stage_one

    def forward(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        if "progress" not in batch:
            raise UserError(
                f"the term {self.name} reads batch['progress'], the share of the training done; DistillationModule "
                "puts it there, your own loop must: batch['progress'] = torch.tensor(0.0 to 1.0)"
            )
        done = (batch["progress"] / self.stage_one).clamp_max(1)
        temperature = self.max_temperature - (self.max_temperature - 1) * done
        phi = 1 - (temperature - 1) / self.max_temperature
        squares = (self.prediction(outputs, batch) - phi * self.target(batch)) ** 2
        return self.per_sample(squares.mean(-1), self.positions(batch))

    def extra_repr(self) -> str:
        return f"max_temperature={self.max_temperature:g}, stage_one={self.stage_one:g}"
