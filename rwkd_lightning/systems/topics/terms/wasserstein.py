"""The squared 2-Wasserstein distance between what student and teacher make of a document (Adhya and Sanyal 2023)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from rwkd_lightning.terms.base import Term, at_least_float32, of_teacher


class Wasserstein(Term):
    """W2²(N(μ_i, diag σ_i²), N(μ_ti, diag σ_ti²)) = ‖μ_i − μ_ti‖² + ‖σ_i − σ_ti‖² ``(B,)``.

    From ``mu`` and ``log_var`` (log σ²), each ``(B, K)``, of student and teacher; for diagonal covariances the general
    formula with matrix square roots (Gelbrich 1990) comes to this. Improving Neural Topic Models with Wasserstein
    Knowledge Distillation, ECIR 2023, https://doi.org/10.1007/978-3-031-28238-6_21, section 3.

    Raises:
        UserError: if the batch lacks the teacher's.
    """

    name = "w2"
    role = "teacher"
    needs = frozenset({"words"})
    reads = ("mu", "log_var")

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)

    def forward(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        mu, log_var = (at_least_float32(outputs[name]) for name in self.reads)
        their_mu, their_log_var = (at_least_float32(of_teacher(batch, name, self.name)) for name in self.reads)
        return ((mu - their_mu) ** 2 + ((log_var / 2).exp() - (their_log_var / 2).exp()) ** 2).sum(1)
