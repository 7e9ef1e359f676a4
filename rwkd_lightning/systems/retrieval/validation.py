"""The score of a student on the meta split while it is trained."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

MONITOR = "candidate_mrr"


class CandidateRank:
    """A `Validation` by the mean reciprocal rank of each held-out query's own document among its batch's candidates.

    They are the documents of the batch and the mined negatives of its queries; others that are relevant do not count.
    A document of the same score counts as ahead.
    """

    def __init__(self) -> None:
        self.found: list[Tensor] = []

    def update(self, student: nn.Module, batch: Mapping[str, Tensor]) -> None:
        """Take in a batch."""
        self.found.append(reciprocal_ranks(student(batch)["logits"].float(), batch).cpu())

    def compute(self) -> dict[str, Tensor]:
        """The score since the last call."""
        if not self.found:
            return {}
        ranks, self.found = torch.cat(self.found), []
        return {MONITOR: ranks.mean()}


def reciprocal_ranks(scores: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """``(B,)`` from scores ``(B, U)``."""
    own = scores.gather(1, batch["labels"][:, None])
    ahead = (scores >= own) & ~batch["known"]
    return 1 / ahead.sum(1).clamp_min(1)
