"""Scores of logits against labels, by name, from torchmetrics."""

from __future__ import annotations

from collections.abc import Callable

import torchmetrics.functional as M
from torch import Tensor

from rwkd_lightning.data.task import TaskSpec

Metric = Callable[[Tensor, Tensor], Tensor]


def metrics(task: TaskSpec) -> dict[str, Metric]:
    """The task's metrics: each takes logits ``(N, C)`` and labels ``(N,)`` and returns a scalar."""
    c = task.num_labels

    def classes(metric: Callable[..., Tensor], **options: object) -> Metric:
        return lambda logits, labels: metric(logits.argmax(1), labels, **options)

    def values(metric: Callable[..., Tensor]) -> Metric:
        return lambda logits, labels: metric(logits[:, 0].double(), labels.double())

    known: dict[str, Metric] = {
        "accuracy": classes(M.classification.multiclass_accuracy, num_classes=c, average="micro"),
        "macro_f1": classes(M.classification.multiclass_f1_score, num_classes=c, average="macro"),
        "f1": classes(M.classification.binary_f1_score),
        "matthews": classes(M.classification.multiclass_matthews_corrcoef, num_classes=c),
        "pearson": values(M.pearson_corrcoef),
        "spearman": values(M.spearman_corrcoef),
    }
    return {name: known[name] for name in task.metrics}


def score(task: TaskSpec, logits: Tensor, labels: Tensor) -> dict[str, float]:
    """All of the task's metrics as plain numbers."""
    return {name: float(metric(logits, labels)) for name, metric in metrics(task).items()}
