"""Scores of the student on held-out batches, by which a checkpoint is chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from rwkd_lightning.terms import Term

Metric = Callable[[Tensor, Tensor], Tensor]
"""Predictions ``(N, ...)`` and targets ``(N, ...)`` to a number, as a metric of torchmetrics."""


class Validation(Protocol):
    """Takes in one batch after the other, then computes the scores of all of them."""

    def update(self, student: nn.Module, batch: dict[str, Tensor]) -> None:
        """Take in a batch; gradients are off and the student is in evaluation mode."""

    def compute(self) -> dict[str, Tensor]:
        """The scores by name since the last call, and begin again; nothing where no batch was taken in."""


class Losses:
    """A `Validation` by the mean of each loss term over the rows for which it has a value.

    A term of the teacher is left out where the batches carry nothing of a teacher. ``loss`` is the sum over the label
    terms, or over all where there is no label term.

    Args:
        terms: the K loss terms.
        answer: adds to a batch what the terms read of the teacher, if there is one.
    """

    def __init__(self, terms: Sequence[Term], answer: Callable[[dict[str, Tensor]], None]) -> None:
        self.terms, self.answer = list(terms), answer
        self.rows: dict[str, list[Tensor]] = {}

    def update(self, student: nn.Module, batch: dict[str, Tensor]) -> None:
        size = next(len(x) for x in batch.values() if isinstance(x, Tensor) and x.ndim)
        batch.setdefault("index", torch.arange(size))
        self.answer(batch)
        outputs = student(batch)
        for term in self.terms:
            if term.role != "teacher" or f"teacher_{term.teacher_output}" in batch:
                values = term(outputs, batch)
                self.rows.setdefault(term.name, []).append(values[term.valid(batch).to(values.device)].double().cpu())

    def compute(self) -> dict[str, Tensor]:
        means = {name: torch.cat(rows).mean().float() for name, rows in self.rows.items()}
        self.rows.clear()
        labels = [means[term.name] for term in self.terms if term.role == "label" and term.name in means]
        total = {"loss": torch.stack(labels or list(means.values())).sum()} if means else {}
        return total | {f"loss_{name}": mean for name, mean in means.items()}


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
