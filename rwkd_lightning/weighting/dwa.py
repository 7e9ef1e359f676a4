"""Dynamic weight average (Liu, Johns and Davison, End-to-End Multi-Task Learning with Attention, CVPR 2019, eq. 7)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting.base import Step, Weighting
from rwkd_lightning.weighting.columns import Columns
from rwkd_lightning.weighting.means import quotient, sums_and_counts


class DynamicWeightAverage(Weighting):
    """w = K·softmax(r/2), the same for every sample; r_k = L_k(e − 1)/L_k(e − 2): more for terms that fall more slowly.

    L_k(e) is the mean of term k over window e; until two windows are over, all weights are 1. The paper's windows are
    epochs, of which fine-tuning has three to five. 25 batches of 32 rows give a mean with an error of a few percent (a
    sample's loss varies as much as its mean), and a run of 300 steps a dozen of them.

    Args:
        terms: names of the K loss terms.
        window: training batches a window, ≥ 1.
        temperature: divides r; 2 in the paper.

    Raises:
        UserError: if window or temperature is out of range; by ``check``, for fewer than two terms.
    """

    needs_batch = False
    sums: Tensor
    counts: Tensor
    batches: Tensor
    means: Tensor

    def __init__(self, terms: Sequence[str] = ("ce", "kd"), window: int = 25, temperature: float = 2.0) -> None:
        super().__init__()
        if window < 1:
            raise UserError(f"`window` is {window}; it counts training batches and must be at least 1 (25 is usual)")
        if not 0 < temperature < float("inf"):
            raise UserError(f"`temperature` is {temperature}; it must be above 0 (2 is usual)")
        self.window = window
        self.temperature = temperature
        for name in ("sums", "counts"):
            self.register_buffer(name, torch.zeros(len(terms)))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))
        self.register_buffer(
            "means", torch.zeros(2, len(terms))
        )  # of the last window but one and of the last; 0: not there yet

    def forward(self, step: Step) -> Tensor:
        earlier, last = self.means
        both = (earlier > 0) & (last > 0)
        rates = torch.where(both, last / earlier.clamp_min(torch.finfo(earlier.dtype).tiny), 1.0)
        weights = len(rates) * (rates / self.temperature).softmax(0)
        return weights.to(step.losses.dtype).expand(len(step.losses), -1)

    def observe(self, step: Step) -> None:
        total, count = sums_and_counts(step)
        self.sums += total
        self.counts += count
        self.batches += 1
        over = self.batches % self.window == 0  # on the device: the host need not know
        self.means = torch.where(over, torch.stack([self.means[1], quotient(self.sums, self.counts)]), self.means)
        self.sums.masked_fill_(over, 0.0)
        self.counts.masked_fill_(over, 0.0)

    def check(self, terms: Columns) -> None:
        if len(terms) < 2:
            raise UserError(f"terms={list(terms)}: dwa balances several terms; give two, or use `LabelsOnly()`")

    def __repr__(self) -> str:
        return f"dwa(window={self.window})"
