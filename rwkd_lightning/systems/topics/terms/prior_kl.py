"""The divergence of a document's latent distribution from the prior, the first part of the negative ELBO."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from rwkd_lightning.terms.base import Term, at_least_float32


class PriorKL(Term):
    """KL(N(μ_i, diag σ_i²) ‖ N(μ_0, diag σ_0²)) ``(B,)``, in nats.

    ½·Σ_k [σ_ik²/σ_0k² + (μ_0k − μ_ik)²/σ_0k² − 1 + log σ_0k² − log σ_ik²]; from ``mu``, ``log_var``, ``prior_mu`` and
    ``prior_log_var``, each ``(B, K)``. Srivastava and Sutton, Autoencoding Variational Inference for Topic Models, ICLR
    2017, eq. (4).
    """

    name = "prior_kl"
    role = "label"
    needs = frozenset({"words"})
    reads = ("mu", "log_var", "prior_mu", "prior_log_var")

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)

    def forward(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        mu, log_var, prior_mu, prior_log_var = (at_least_float32(outputs[name]) for name in self.reads)
        spread = prior_log_var - log_var
        return 0.5 * ((-spread).exp() + (prior_mu - mu) ** 2 * (-prior_log_var).exp() - 1 + spread).sum(1)
