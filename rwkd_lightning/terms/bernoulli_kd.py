"""Kullback-Leibler divergence from the teacher, label by label, for several labels per row."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from rwkd_lightning.terms.kd import DistillationKL


class BernoulliKL(DistillationKL):
    """T²·(1/C)·Σ_c KL(Bernoulli(q^T_ic) ‖ Bernoulli(p^T_ic)) from ``logits`` and ``teacher_logits``, both ``(B, C)``.

    p^T = σ(s/T) and q^T = σ(t/T): ``DistillationKL`` where each label is a yes or no of its own, the mean over the
    labels as in ``BinaryCrossEntropy``. Arguments as of ``DistillationKL``.
    """

    name = "bernoulli_kd"
    needs = frozenset({"labels"})

    def forward(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        mine, theirs = self.prediction(outputs, batch) / self.temperature, self.target(batch) / self.temperature
        q = theirs.sigmoid()
        yes = q * (F.logsigmoid(theirs) - F.logsigmoid(mine))
        no = (1 - q) * (F.logsigmoid(-theirs) - F.logsigmoid(-mine))
        return self.temperature**2 * self.per_sample((yes + no).mean(-1), self.positions(batch))
