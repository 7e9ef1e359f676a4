"""Kullback-Leibler divergence from the teacher, label by label, for several labels per row."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from rwkd_lightning.terms.base import Term
from rwkd_lightning.utils.errors import UserError


class BernoulliKL(Term):
    """T²·(1/C)·Σ_c KL(Bernoulli(q^T_ic) ‖ Bernoulli(p^T_ic)) from ``logits`` and ``teacher_logits``, both ``(B, C)``.

    p^T = σ(s/T) and q^T = σ(t/T): ``DistillationKL`` where each label is a yes or no of its own, the mean over the
    labels as in ``BinaryCrossEntropy``.

    Args:
        temperature: T > 0. The factor T² keeps the size of the gradient when T changes.
        name, output, teacher_output, mask: as of ``Term``.

    Raises:
        UserError: if T is not positive.
    """

    name = "bernoulli_kd"
    role = "teacher"
    preference = 0
    needs = frozenset({"labels"})

    def __init__(
        self,
        temperature: float = 2.0,
        name: str | None = None,
        output: str | None = None,
        teacher_output: str | None = None,
        mask: str | None = None,
    ) -> None:
        super().__init__(name, output, teacher_output, mask)
        if not 0 < temperature < float("inf"):
            raise UserError(f"temperature is {temperature}; it must be above 0 (1 to 4 are usual)")
        self.temperature = temperature

    def forward(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        mine, theirs = self.prediction(outputs, batch) / self.temperature, self.target(batch) / self.temperature
        q = theirs.sigmoid()
        yes = q * (F.logsigmoid(theirs) - F.logsigmoid(mine))
        no = (1 - q) * (F.logsigmoid(-theirs) - F.logsigmoid(-mine))
        return self.temperature**2 * self.per_sample((yes + no).mean(-1), self.positions(batch))

    def extra_repr(self) -> str:
        return f"temperature={self.temperature:g}"
