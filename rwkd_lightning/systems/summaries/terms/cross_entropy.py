"""Cross-entropy with the reference."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from rwkd_lightning.systems.summaries.terms.base import TokenTerm
from rwkd_lightning.utils.errors import UserError


class TokenCrossEntropy(TokenTerm):
    """l_it = −(1 − ε)·log p_it[y_it] − (ε/V)·Σ_v log p_itv.

    Args:
        smoothing: ε of label smoothing (Szegedy et al. 2016), as torch has it: ε/V on the target too. The released code
            of Liu et al. has ε = 0.1 in teacher and student, spread over V − 2 tokens without target and padding.
        length_weighted, name, output: as of `TokenTerm`.

    Raises:
        UserError: for ε outside [0, 1).
    """

    name = "token_ce"
    role = "label"

    def __init__(
        self,
        smoothing: float = 0.0,
        length_weighted: bool = False,
        name: str | None = None,
        output: str | None = None,
    ) -> None:
        super().__init__(length_weighted, name, output)
        if not 0 <= smoothing < 1:
            raise UserError(f"smoothing is {smoothing}; it is a share of the target's mass, from 0 up to 1")
        self.smoothing = smoothing

    def forward(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        logits, labels = self.prediction(outputs, batch), batch["labels"].clamp_min(0)
        total = logits.logsumexp(-1)
        losses = total - logits.gather(-1, labels[..., None])[..., 0]
        if self.smoothing:
            losses = (1 - self.smoothing) * losses + self.smoothing * (total - logits.mean(-1))
        return self.of_samples(losses, batch)
