"""Control: RW-KD's weights, dealt to the wrong samples."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting.base import Step, Weighting
from rwkd_lightning.weighting.columns import Columns
from rwkd_lightning.weighting.features.history import EarlierWeights


class Permuted(Weighting):
    """The weights of another method, shuffled within the batch: the same distribution, without the assignment.

    The inner method learns exactly as it would alone; only what the student uses is shuffled. The order is a function
    of the rows of the batch: the same whenever a step asks again, and no draw from the generator of the dropout masks.

    Args:
        inner: the method whose weights are shuffled.

    Raises:
        UserError: if the inner method reads its own earlier weights: what is on record is what the student used, so
            they would be another sample's, and the inner method would not learn as it does alone.
    """

    def __init__(self, inner: Weighting) -> None:
        super().__init__()
        if getattr(inner, "smoothing", 0):
            raise UserError(
                f"weighting.inner.smoothing={inner.smoothing} with weighting=permuted: the weights of a sample's "
                "last visit are another sample's here; use weighting.inner.smoothing=0"
            )
        if any(isinstance(module, EarlierWeights) for module in inner.modules()):
            raise UserError(
                "meta_features=history with weighting=permuted: the weights of a sample's last visit are another "
                "sample's here; use meta_features=standard or meta_features=influence"
            )
        self.inner = inner
        self.needs_influence = inner.needs_influence
        self.has_memory = inner.has_memory
        self.needs_head = inner.needs_head
        self.reads_influence = inner.reads_influence
        self.needs, self.instead = inner.needs, inner.instead
        remedy = inner.collapse_remedy
        self.collapse_remedy = None if remedy is None else remedy.replace("weighting.", "weighting.inner.")

    def forward(self, step: Step) -> Tensor:
        weights: Tensor = self.inner(step)
        return weights[shuffled(step.batch["index"]).to(weights.device)]

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

    def __repr__(self) -> str:
        return f"permuted({self.inner!r})"


def shuffled(index: Tensor) -> Tensor:
    """A permutation ``(B,)`` set by the rows ``(B,)`` of the batch and their order."""
    places = torch.arange(1, len(index) + 1)
    seed = int((places * (index.cpu() + 1)).sum())
    return torch.randperm(len(index), generator=torch.Generator().manual_seed(seed))
