"""Label smoothing as a term of its own."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from rwkd_lightning.systems.summaries.terms.base import TokenTerm


class Smooth(TokenTerm):
    """l_it = −(1/V)·Σ_v log p_itv: cross-entropy with the uniform distribution. Weights (1 − ε, ε) of ``ce`` and this
    are label smoothing by ε. Arguments as of `TokenTerm`.
    """

    name = "smooth"

    def forward(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        logits = self.prediction(outputs, batch)
        return self.of_samples(logits.logsumexp(-1) - logits.mean(-1), batch)
