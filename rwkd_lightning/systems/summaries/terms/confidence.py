"""The confidence penalty."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from rwkd_lightning.systems.summaries.terms.base import TokenTerm


class Confidence(TokenTerm):
    """l_it = log V − H(p_it) = Σ_v p·log p + log V (Pereyra et al. 2017, with log V added so that no loss is negative).
    Arguments as of `TokenTerm`.
    """

    name = "confidence"

    def forward(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        log_p = self.prediction(outputs, batch).log_softmax(-1)
        return self.of_samples((log_p.exp() * log_p).sum(-1) + math.log(log_p.shape[-1]), batch)
