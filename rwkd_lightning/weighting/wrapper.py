"""The base of methods that change another method's weights and let it learn as it does alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rwkd_lightning.weighting.base import Step, Weighting
from rwkd_lightning.weighting.columns import Columns


class Wrapper(Weighting):
    """Everything of the inner method, but for ``forward``.

    Args:
        inner: the method whose weights are changed.
    """

    def __init__(self, inner: Weighting) -> None:
        super().__init__()
        self.inner = inner
        self.needs_influence = inner.needs_influence
        self.has_memory = inner.has_memory
        self.needs_head = inner.needs_head
        self.needs_batch = inner.needs_batch
        self.reads_influence = inner.reads_influence
        self.needs, self.instead = inner.needs, inner.instead
        remedy = inner.collapse_remedy
        self.collapse_remedy = None if remedy is None else remedy.replace("weighting.", "weighting.inner.")

    def own_loss(self, step: Step) -> Tensor | None:
        return self.inner.own_loss(step)

    def own_optimizer(self) -> torch.optim.Optimizer | None:
        return self.inner.own_optimizer()

    def observe(self, step: Step) -> None:
        self.inner.observe(step)

    def prepare(self, training_set: Mapping[str, Tensor]) -> None:
        self.inner.prepare(training_set)

    def check(self, terms: Columns) -> None:
        self.inner.check(terms)
