"""What the terms over a summary's tokens share."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rwkd_lightning.terms import Term


class TokenTerm(Term):
    """A term of logits ``(B, T, V)`` and ``labels`` ``(B, T)``, −1 where there is no token; or, of tokens that stand
    alone, of ``(M, V)`` and ``(M,)``.

    A sample's loss is the mean over its n_i tokens, l_i = (1/n_i)·Σ_t l_it.

    Args:
        length_weighted: multiply it by n_i/n̄, the batch's ``length_share``, n̄ the mean of its split: over an epoch this
            is the mean over tokens, as the released code has it within each batch.
        name, output: as of ``Term``.
    """

    name = "over_tokens"
    needs = frozenset({"tokens"})

    def __init__(self, length_weighted: bool = False, name: str | None = None, output: str | None = None) -> None:
        super().__init__(name, output)
        self.length_weighted = length_weighted

    def positions(self, batch: Mapping[str, Tensor]) -> Tensor:
        return batch["labels"] >= 0

    def masked(self, values: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        return torch.where(self.positions(batch)[..., None], values, 0)

    def of_samples(self, values: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """``(B,)`` from the losses of tokens ``(B, T)``."""
        losses = self.per_sample(values, self.positions(batch))
        return losses * batch["length_share"].to(losses.dtype) if self.length_weighted else losses
