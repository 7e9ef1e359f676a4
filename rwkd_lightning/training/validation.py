"""Scores of the student on held-out batches, by which a checkpoint is chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

Metric = Callable[[Tensor, Tensor], Tensor]
"""Predictions ``(N, ...)`` and targets ``(N, ...)`` to a number, as a metric of torchmetrics."""


class Validation(Protocol):
    """Takes in one batch after the other, then computes the scores of all of them."""

    def update(self, student: nn.Module, batch: dict[str, Tensor]) -> None:
        """Take in a batch; gradients are off and the student is in evaluation mode."""

    def compute(self) -> dict[str, Tensor]:
        """The scores by name since the last call, and begin again; nothing where no batch was taken in."""


class Metrics:
    """A `Validation` by metrics of one output and one column, each computed on all rows at once.

    Args:
        metrics: by name, those of torchmetrics for example.
        output: the student's, the metrics' first argument.
        target: the batch's, the second one.
    """

    def __init__(self, metrics: Mapping[str, Metric], output: str = "logits", target: str = "labels") -> None:
        self.metrics, self.output, self.target = dict(metrics), output, target
        self.rows: list[tuple[Tensor, Tensor]] = []

    def update(self, student: nn.Module, batch: dict[str, Tensor]) -> None:
        if self.metrics:
            self.rows.append((student(batch)[self.output].float().cpu(), batch[self.target].cpu()))

    def compute(self) -> dict[str, Tensor]:
        if not self.rows:
            return {}
        predictions, targets = (torch.cat(column) for column in zip(*self.rows, strict=True))
        self.rows.clear()
        return {name: metric(predictions, targets) for name, metric in self.metrics.items()}
