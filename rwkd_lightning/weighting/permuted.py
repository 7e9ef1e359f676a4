"""Control: RW-KD's weights, dealt to the wrong samples."""

from __future__ import annotations

import torch
from torch import Tensor

from rwkd_lightning.weighting.base import Step, Weighting
from rwkd_lightning.weighting.wrapper import Wrapper


class Permuted(Wrapper):
    """The weights of another method, shuffled within the batch: the same distribution, without the assignment.

    The inner method learns exactly as it would alone; only what the student uses is shuffled. The order is a function
    of the rows of the batch: the same whenever a step asks again, and no draw from the generator of the dropout masks.

    Args:
        inner: the method whose weights are shuffled.

    Raises:
        UserError: as ``Wrapper``.
    """

    def __init__(self, inner: Weighting) -> None:
        super().__init__(inner)
        self.needs_batch = True

    def forward(self, step: Step) -> Tensor:
        weights: Tensor = self.inner(step)
        return weights[shuffled(step.batch["index"]).to(weights.device)]

    def __repr__(self) -> str:
        return f"permuted({self.inner!r})"


def shuffled(index: Tensor) -> Tensor:
    """A permutation ``(B,)`` set by the rows ``(B,)`` of the batch and their order."""
    places = torch.arange(1, len(index) + 1)
    seed = int((places * (index.cpu() + 1)).sum())
    return torch.randperm(len(index), generator=torch.Generator().manual_seed(seed))
