"""Cross-entropy with the teacher's soft labels (Hinton et al. 2015, section 2)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from rwkd_lightning.terms.kd import DistillationKL


class SoftCrossEntropy(DistillationKL):
    """T²·SCE_i = −T²·Σ_c q^T_ic·log p^T_ic ``(B,)`` from ``logits`` and ``teacher_logits``, both ``(B, C)``.

    ``kd`` plus T² times the teacher's entropy, a constant: another value, the same gradient. Options and errors as
    ``kd``'s.
    """

    name = "soft_ce"
    preference = 1

    def forward(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        log_p = (self.prediction(outputs, batch) / self.temperature).log_softmax(-1)
        q = (self.target(batch) / self.temperature).softmax(-1)
        return -(self.temperature**2) * self.per_sample((q * log_p).sum(-1), self.positions(batch))
