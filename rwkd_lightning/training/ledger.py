"""The record of every training sample: one row each, kept in memory, written out at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rwkd_lightning.bilevel import in_units_of
from rwkd_lightning.utils.distributed import gather_together
from rwkd_lightning.weighting import History, Step
from rwkd_lightning.weighting.columns import Columns


@dataclass
class Visit:
    """The findings of a step about its rows, those of all ranks: ``index`` ``(R,)``; the others ``(R, K)``."""

    index: Tensor
    losses: Tensor
    valid: Tensor
    influence: Tensor | None

    @classmethod
    def of(cls, step: Step) -> Visit:
        """Gather it; every rank gets the same."""
        found = [step.losses.detach(), step.valid, *([] if step.influence is None else [step.influence])]
        index, losses, valid, *influence = gather_together(step.batch["index"], *found)
        return cls(index, losses, valid, influence[0] if influence else None)


class Ledger(nn.Module):
    """Weights and losses as last seen, influence accumulated; N rows and K terms, ``N·(13·K + 8)`` bytes, in the
    checkpoint.

    Args:
        size: N training samples, addressed by ``batch["index"]``.
        terms: the K names, no two alike.
    """

    weights: Tensor
    losses: Tensor
    influence: Tensor
    valid: Tensor
    visits: Tensor
    meta_visits: Tensor

    def __init__(self, size: int, terms: Sequence[str]) -> None:
        super().__init__()
        for name in ("weights", "losses", "influence"):
            self.register_buffer(name, torch.zeros(size, len(terms)))
        self.register_buffer("valid", torch.zeros(size, len(terms), dtype=torch.bool))  # at the last visit
        self.register_buffer("visits", torch.zeros(size, dtype=torch.int32))  # student steps in which the row was seen
        self.register_buffer("meta_visits", torch.zeros(size))  # those of them with a meta step
        self.terms = Columns.of(terms)  # under one name, one column would overwrite the other

    def history(self, index: Tensor) -> History:
        """The traces of earlier visits of these samples."""
        visits = self.meta_visits[index]
        return History(visits, self.influence[index] / visits.clamp_min(1)[:, None], self.weights[index])

    def record(
        self, visit: Visit, weights: Tensor, bad: Tensor | None = None, unit: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Keep the losses and weights of this visit and add its influence, in units of the batch's mean size.

        Every rank keeps the rows of all of them: a sample's next visit may be to another one.

        Args:
            visit: of all ranks.
            weights: of all ranks, ``(world·B, K)``.
            unit: the influence in these units, where it is known.
            bad: a scalar; where it is not 0 the record stays as it is. None: it does not.

        Returns:
            losses and weights ``(world·B, K)`` as kept.
        """
        losses, used = visit.losses.to(self.losses.dtype), weights.to(self.weights.dtype)
        new = {"weights": used, "losses": losses, "valid": visit.valid}
        # once a step, also for a row that fills up the batches of several ranks
        old = {"visits": self.visits[visit.index]}
        new["visits"] = old["visits"] + 1
        if visit.influence is not None:
            unit = in_units_of(visit.influence.abs().mean(), visit.influence) if unit is None else unit
            old |= {"influence": self.influence[visit.index], "meta_visits": self.meta_visits[visit.index]}
            new |= {
                "influence": old["influence"] + unit.to(self.influence.dtype),
                "meta_visits": old["meta_visits"] + 1,
            }
        kept = None if bad is None else bad > 0
        for name, values in new.items():
            table = getattr(self, name)
            if kept is not None:
                values = torch.where(kept, old[name] if name in old else table[visit.index], values)
            table[visit.index] = values
        return losses, used

    def columns(self) -> dict[str, Tensor]:
        """``visits``, then ``w_<term>``, ``loss_<term>``, ``influence_<term>``, each ``(N,)``; NaN for what was never
        computed.

        That is all of a row that no step has seen, a term that has no value for the row, and the influence of a row
        that no meta step has seen: a weight of 0 is one that a method has given.
        """
        seen = self.valid & (self.visits > 0)[:, None]
        known = {"w": seen, "loss": seen, "influence": seen & (self.meta_visits > 0)[:, None]}
        tables = {"w": self.weights, "loss": self.losses, "influence": self.influence}
        found = {
            f"{kind}_{term}": torch.where(known[kind][:, k], table[:, k], torch.nan).cpu()
            for kind, table in tables.items()
            for k, term in enumerate(self.terms)
        }
        return {"visits": self.visits.cpu(), **found}
