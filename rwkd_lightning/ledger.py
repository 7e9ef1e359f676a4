"""What is known of every training sample: one row each, kept in memory, written out at the end."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rwkd_lightning.bilevel import in_units_of
from rwkd_lightning.distributed import gather_together
from rwkd_lightning.weighting import History, Step


@dataclass
class Visit:
    """What a step found out about its rows, those of all ranks: ``index`` ``(R,)``, ``losses`` and ``influence`` ``(R, K)``."""

    index: Tensor
    losses: Tensor
    influence: Tensor | None

    @classmethod
    def of(cls, step: Step) -> Visit:
        """Gather it; every rank gets the same."""
        found = [step.losses.detach()] if step.influence is None else [step.losses.detach(), step.influence]
        index, losses, *influence = gather_together(step.batch["index"], *found)
        return cls(index, losses, influence[0] if influence else None)


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

    def record(self, visit: Visit, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the losses and weights of this visit and add its influence, in units of the batch's mean size.

        Every rank keeps the rows of all of them: a sample's next visit may be to another one.

        Args:
            visit: of all ranks.
            weights: of all ranks, ``(world·B, K)``.

        Returns:
            losses and weights ``(world·B, K)`` as kept.
        """
        losses, used = visit.losses.to(self.losses.dtype), weights.to(self.weights.dtype)
        self.weights[visit.index] = used
        self.losses[visit.index] = losses
        if visit.influence is not None:
            mean = visit.influence.abs().mean()
            self.influence[visit.index] += in_units_of(mean, visit.influence).to(self.influence.dtype)
            self.visits[visit.index] += 1
        return losses, used

    def columns(self) -> dict[str, Tensor]:
        """``w_<term>``, ``loss_<term>`` and ``influence_<term>``, each ``(N,)``."""
        kinds = {"w": self.weights, "loss": self.losses, "influence": self.influence}
        return {f"{kind}_{term}": table[:, k].cpu() for kind, table in kinds.items() for k, term in enumerate(self.terms)}
