"""How badly a topic model explains a document's words, the second part of the negative ELBO."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from rwkd_lightning.terms.base import Term


class Reconstruction(Term):
    """−Σ_v x_iv·log softmax(s_i)_v ``(B,)``, in nats, from ``logits`` s ``(B, V)`` and the batch's ``counts`` x ``(B,
    V)``.

    By log-softmax, where released code adds 1e-10 to the probability: the same but for words that the model rules out.
    Srivastava and Sutton 2017, eq. (4), with one sample of θ.
    """

    name = "reconstruction"
    role = "label"
    needs = frozenset({"words"})

    def __init__(self, name: str | None = None, output: str | None = None) -> None:
        super().__init__(name, output)

    def forward(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        return -(batch["counts"] * self.prediction(outputs, batch).log_softmax(1)).sum(1)
