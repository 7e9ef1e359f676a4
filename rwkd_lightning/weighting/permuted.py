"""Control: RW-KD's weights, dealt to the wrong samples."""

from __future__ import annotations

import torch
from torch import Tensor

from rwkd_lightning.weighting.base import Step, Weighting
from rwkd_lightning.weighting.wrapper import Wrapper

GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
MIXING = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))
"""Constants of SplitMix64 (Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014)."""


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
        return weights[shuffled(step.batch["index"])]

    def __repr__(self) -> str:
        return f"permuted({self.inner!r})"


def shuffled(index: Tensor) -> Tensor:
    """A permutation ``(B,)`` set by the rows ``(B,)`` of the batch and their order."""
    places = torch.arange(1, len(index) + 1, device=index.device)
    keys = places * GOLDEN + (places * (index + 1)).sum()
    for factor in MIXING:  # by the rows' numbers on their device: the host need not know them
        keys = (keys ^ (keys >> 31)) * factor
    return (keys ^ (keys >> 31)).argsort(stable=True)
