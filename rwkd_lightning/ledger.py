"""What is known of every training sample: one row each, kept in memory, written out at the end."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rwkd_lightning.bilevel import finite, normalised
from rwkd_lightning.distributed import gather_rows
from rwkd_lightning.weighting import History, Step


class Ledger(nn.Module):
    """Weights and losses as last seen, influence accumulated; N rows and K terms, ``12·N·K`` bytes, in the checkpoint.

    Args:
        size: N training samples, addressed by ``batch["index"]``.
        terms: the K names.
    """

    weights: Tensor
    losses: Tensor
    influence: Tensor
    visits: Tensor

    def __init__(self, size: int, terms: tuple[str, ...]) -> None:
        super().__init__()
        for name in ("weights", "losses", "influence"):
            self.register_buffer(name, torch.zeros(size, len(terms)))
        self.register_buffer("visits", torch.zeros(size))
        self.terms = terms

    def history(self, index: Tensor) -> History:
        """What earlier visits of these samples left."""
        visits = self.visits[index]
        return History(visits, self.influence[index] / visits.clamp_min(1)[:, None], self.weights[index])

    def record(self, step: Step, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the weights and losses of this visit and add its influence, in units of the batch's mean size.

        Every rank keeps the rows of all of them: a sample's next visit may be to another one.

        Returns:
            losses and weights ``(world·B, K)`` of all ranks.
        """
        columns = [step.losses.detach(), weights.detach()]
        if step.influence is not None:
            columns.append(normalised(finite(step.influence)))
        index = gather_rows(step.batch["index"])
        losses, used, *influence = gather_rows(torch.stack([c.to(self.weights.dtype) for c in columns])[None])\
            .transpose(0, 1).flatten(1, 2).unbind(0)
        self.weights[index] = used
        self.losses[index] = losses
        if influence:
            self.influence[index] += influence[0]
            self.visits[index] += 1
        return losses, used

    def columns(self) -> dict[str, Tensor]:
        """``w_<term>``, ``loss_<term>`` and ``influence_<term>``, each ``(N,)``."""
        kinds = {"w": self.weights, "loss": self.losses, "influence": self.influence}
        return {f"{kind}_{term}": table[:, k].cpu() for kind, table in kinds.items() for k, term in enumerate(self.terms)}
