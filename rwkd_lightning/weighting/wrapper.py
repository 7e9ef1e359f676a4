"""The base of methods that change another method's weights and let it learn as it does alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting.base import Step, Weighting
from rwkd_lightning.weighting.columns import Columns
from rwkd_lightning.weighting.features.history import EarlierWeights


class Wrapper(Weighting):
    """Everything of the inner method, but for ``forward``.

    Args:
        inner: the method whose weights are changed.

    Raises:
        UserError: if the inner method reads its own earlier weights: those on record are what the student used, and the
            inner method would not learn as it does alone.
    """

    def __init__(self, inner: Weighting) -> None:
        super().__init__()
        why = "on record are the changed weights of a sample's last visit, not those of the inner method"
        if smoothing := getattr(inner, "smoothing", 0):
            raise UserError(f"`inner.smoothing={smoothing}`: {why}; use `inner.smoothing=0`")
        if any(isinstance(module, EarlierWeights) for module in inner.modules()):
            raise UserError(f"`EarlierWeights`: {why}; use `ClassificationFeatures()` alone")
        self.inner = inner
        self.needs_influence = inner.needs_influence
        self.has_memory = inner.has_memory
        self.needs_head = inner.needs_head
        self.needs_batch = inner.needs_batch
        self.reads_influence = inner.reads_influence
        self.by_halves = inner.by_halves
        self.reads_columns = inner.reads_columns
        self.needs, self.instead = inner.needs, inner.instead
        remedy = inner.collapse_remedy
        self.collapse_remedy = None if remedy is None else remedy.replace("`weighting.", "`weighting.inner.")

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
