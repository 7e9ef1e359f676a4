"""The record of every training sample: one row each, kept in memory, written out at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rwkd_lightning.bilevel import in_units_of
from rwkd_lightning.utils.constants import constant
from rwkd_lightning.utils.distributed import gather_together, world_size
from rwkd_lightning.weighting import History, Step
from rwkd_lightning.weighting.columns import Columns

PARTS = ("weights", "losses", "valid", "influence", "meta_visits", "visits")
"""Of a checkpoint of before the table, in the order of its columns."""


@dataclass
class Visit:
    """The findings of a step about its rows, those of all ranks: ``index`` ``(R,)``; the others ``(R, K)``.

    ``rows`` are the ledger's of before, where the step has read them already.
    """

    index: Tensor
    losses: Tensor
    valid: Tensor
    influence: Tensor | None
    rows: Tensor | None = None

    @classmethod
    def of(cls, step: Step) -> Visit:
        """Gather it; every rank gets the same."""
        found = [step.values, step.valid, *([] if step.influence is None else [step.influence])]
        index, losses, valid, *influence = gather_together(step.batch["index"], *found)
        rows = step.history.rows if step.history is not None and world_size() == 1 else None
        return cls(index, losses, valid, influence[0] if influence else None, rows)


class Ledger(nn.Module):
    """Weights and losses as last seen, influence accumulated; N rows and K terms, ``N·(16·K + 8)`` bytes, in the
    checkpoint.

    All of it is one table, of which a step reads its rows at once and writes them at once.

    Args:
        size: N training samples, addressed by ``batch["index"]``.
        terms: the K names, no two alike.

    Attributes:
        table: ``(N, 4·K + 2)``: weights, losses, whether these are valid, sums of normalised influence, K columns each;
            the student steps with a meta step in which the row was seen, and all of them, exact up to 2²⁴.
    """

    table: Tensor

    def __init__(self, size: int, terms: Sequence[str]) -> None:
        super().__init__()
        self.terms = Columns.of(terms)  # under one name, one column would overwrite the other
        k = len(self.terms)
        self.widths = [k, k, k, k, 1, 1]
        self.register_buffer("table", torch.zeros(size, sum(self.widths)))
        self.register_load_state_dict_pre_hook(Ledger.pack)  # type: ignore[no-untyped-call]

    @staticmethod
    def pack(ledger: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
        """Read a checkpoint of before the table, with a tensor for every part of it."""
        if f"{prefix}visits" in state:
            parts = [state.pop(prefix + name) for name in PARTS]
            state[f"{prefix}table"] = torch.cat([p.reshape(len(p), -1).to(parts[0].dtype) for p in parts], 1)

    @staticmethod
    def size_saved(state: Mapping[str, Tensor], prefix: str) -> int:
        """N of a ledger in a checkpoint."""
        return len(state[f"{prefix}table"] if f"{prefix}table" in state else state[f"{prefix}visits"])

    def parts(self) -> list[Tensor]:
        """Views of the table: weights, losses, valid, sums of influence ``(N, K)``, meta visits and visits ``(N,
        1)``.
        """
        return list(torch.split(self.table, self.widths, 1))

    @property
    def weights(self) -> Tensor:
        """``(N, K)``, as last seen."""
        return self.parts()[0]

    @property
    def losses(self) -> Tensor:
        """``(N, K)``, as last seen."""
        return self.parts()[1]

    @property
    def valid(self) -> Tensor:
        """``(N, K)``, at the last visit; a copy."""
        return self.parts()[2] > 0

    @property
    def influence(self) -> Tensor:
        """``(N, K)``, the sum over the visits with a meta step."""
        return self.parts()[3]

    @property
    def meta_visits(self) -> Tensor:
        """``(N,)``."""
        return self.table[:, -2]

    @property
    def visits(self) -> Tensor:
        """``(N,)``."""
        return self.table[:, -1]

    def history(self, index: Tensor) -> History:
        """The traces of earlier visits of these samples."""
        rows = self.table[index]
        weights, _, _, total, count, _ = torch.split(rows, self.widths, 1)
        return History(count, total, weights, rows)

    def record(
        self, visit: Visit, weights: Tensor, bad: Tensor | None = None, unit: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Keep the losses and weights of this visit and add its influence, in units of the batch's mean size.

        Every rank keeps the rows of all of them: a sample's next visit may be to another one. A row that fills up the
        batches of several ranks counts once.

        Args:
            visit: of all ranks.
            weights: of all ranks, ``(world·B, K)``.
            unit: the influence in these units, where it is known.
            bad: a scalar; where it is not 0 the record stays as it is. None: it does not.

        Returns:
            losses and weights ``(world·B, K)`` as kept.
        """
        k, dtype, device = len(self.terms), self.table.dtype, self.table.device
        losses, used = visit.losses.to(dtype), weights.to(dtype)
        old = self.table[visit.index] if visit.rows is None else visit.rows
        if visit.influence is None:
            more = constant((*[0.0] * (k + 1), 1.0), dtype, device)
        else:
            unit = in_units_of(visit.influence.abs().mean(), visit.influence) if unit is None else unit
            more = torch.cat([unit.to(dtype), constant((1.0, 1.0), dtype, device).expand(len(unit), 2)], 1)
        new = torch.cat([used, losses, visit.valid.to(dtype), old[:, 3 * k :] + more], 1)
        self.table[visit.index] = new if bad is None else torch.where(bad > 0, old, new)
        return losses, used

    def columns(self) -> dict[str, Tensor]:
        """``visits``, then ``w_<term>``, ``loss_<term>``, ``influence_<term>``, each ``(N,)``; NaN for what was never
        computed.

        That is all of a row that no step has seen, a term that has no value for the row, and the influence of a row
        that no meta step has seen: a weight of 0 is one that a method has given.
        """
        weights, losses, valid, influence, meta_visits, visits = self.parts()
        seen = (valid > 0) & (visits > 0)
        known = {"w": seen, "loss": seen, "influence": seen & (meta_visits > 0)}
        tables = {"w": weights, "loss": losses, "influence": influence}
        found = {
            f"{kind}_{term}": torch.where(known[kind][:, k], table[:, k], torch.nan).cpu()
            for kind, table in tables.items()
            for k, term in enumerate(self.terms)
        }
        return {"visits": visits[:, 0].int().cpu(), **found}
