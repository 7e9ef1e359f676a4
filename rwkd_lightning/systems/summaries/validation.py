"""The score of a summariser on the meta split while it is trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from rwkd_lightning.meta.restriction import to_device

MONITOR = "log_likelihood"


class TokenLikelihood:
    """A `Validation` by the mean log-likelihood of a held-out token, not smoothed."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def update(self, student: nn.Module, batch: Mapping[str, Tensor]) -> None:
        """Take in a batch."""
        labels = batch["labels"]
        log_p = student(batch)["logits"].float().log_softmax(-1)
        mine = log_p.gather(-1, labels.clamp_min(0)[..., None])[..., 0]
        self.total += float(torch.where(labels >= 0, mine, 0).double().sum())
        self.count += int((labels >= 0).sum())

    def compute(self) -> dict[str, Tensor]:
        """The score since the last call."""
        if not self.count:
            return {}
        found = {MONITOR: torch.tensor(self.total / self.count)}
        self.total, self.count = 0.0, 0
        return found


@torch.inference_mode()
def likelihood(student: nn.Module, loader: Iterable[Mapping[str, Tensor]], device: torch.device) -> float:
    """The mean log-likelihood of a token of all rows."""
    score = TokenLikelihood()
    student.eval().to(device)
    for batch in loader:
        score.update(student, to_device(batch, device))
    return float(score.compute()[MONITOR])
