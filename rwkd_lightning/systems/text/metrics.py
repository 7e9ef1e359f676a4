"""Scores of logits against labels, from torchmetrics; where scikit-learn or SciPy differ, theirs hold."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torchmetrics.functional as M
from torch import Tensor

from rwkd_lightning.systems.text.data.task import TaskSpec
from rwkd_lightning.utils.errors import UserError

Metric = Callable[[Tensor, Tensor], Tensor]


def metrics(task: TaskSpec) -> dict[str, Metric]:
    """The task's metrics: each takes logits ``(N, C)`` and labels ``(N,)``, of several per row ``(N, C)``; a scalar.

    What is not defined is 0 for F1 (a class neither predicted nor present counts as 0 in ``macro_f1``) and for
    ``matthews`` (predictions or labels of one class), as in scikit-learn; a correlation is NaN where predictions or
    labels are constant or hold NaN, as in SciPy.

    Raises:
        UserError: for a name that is no metric of such a task.
    """
    c = task.num_labels
    known: dict[str, Metric]
    if task.is_multilabel:
        known = {
            "micro_f1": of_labels(lambda p, y: M.classification.multilabel_f1_score(p, y, c, average="micro")),
            "macro_f1": of_labels(lambda p, y: M.classification.multilabel_f1_score(p, y, c, average="none").mean()),
            "map": of_labels(mean_average_precision),
        }
    elif task.is_regression:
        known = {"pearson": of_values(M.pearson_corrcoef), "spearman": of_values(M.spearman_corrcoef)}
    else:
        known = {
            "accuracy": of_classes(lambda p, y: M.classification.multiclass_accuracy(p, y, c, average="micro")),
            # averaged here: torchmetrics leaves out a class neither predicted nor present
            "macro_f1": of_classes(lambda p, y: M.classification.multiclass_f1_score(p, y, c, average="none").mean()),
            "matthews": of_classes(lambda p, y: matthews(p, y, c)),
        }
        if c == 2:
            known["f1"] = of_classes(M.classification.binary_f1_score)
    if unknown := [name for name in task.metrics if name not in known]:
        raise UserError(f"task {task.name!r} has the metric {unknown[0]!r}; its labels allow {', '.join(known)}")
    return {name: known[name] for name in task.metrics}


def mean_average_precision(shares: Tensor, labels: Tensor) -> Tensor:
    """The mean of the average precision over the labels that some row has; NaN where there is none."""
    present = labels.bool().any(0).nonzero().flatten().tolist()
    found = [M.classification.binary_average_precision(shares[:, c], labels[:, c]) for c in present]
    return torch.stack(found).mean() if found else shares.new_tensor(float("nan"))


def score(task: TaskSpec, logits: Tensor, labels: Tensor) -> dict[str, float]:
    """All of the task's metrics as plain numbers."""
    return {name: float(metric(logits, labels)) for name, metric in metrics(task).items()}


def matthews(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Matthews correlation, 0 for one class only: torchmetrics gives ±1 or a small number there."""
    if constant(predicted) or constant(labels):
        return predicted.new_zeros((), dtype=labels.float().dtype)
    result: Tensor = M.classification.multiclass_matthews_corrcoef(predicted, labels, num_classes)
    return result


def constant(x: Tensor) -> bool:
    """Whether all numbers are the same."""
    return bool((x == x[0]).all())


def of_classes(metric: Callable[[Tensor, Tensor], Tensor]) -> Metric:
    """A metric of predicted and true classes as one of logits and labels."""
    return lambda logits, labels: metric(logits.argmax(1), labels)


def of_values(metric: Callable[[Tensor, Tensor], Tensor]) -> Metric:
    """A correlation as a metric of logits ``(N, 1)`` and labels, NaN where it is not defined: torchmetrics gives 0
    there.
    """

    def correlation(logits: Tensor, labels: Tensor) -> Tensor:
        x, y = logits[:, 0].double(), labels.double()
        if constant(x) or constant(y) or bool((x + y).isnan().any()):
            return x.new_tensor(float("nan"))
        # scaled, which changes no correlation: torchmetrics warns of small variances and adds a constant to them
        return metric((x - x.mean()) / x.std(), (y - y.mean()) / y.std())

    return correlation


def of_labels(metric: Metric) -> Metric:
    """A metric that takes the probability of each label."""
    return lambda logits, labels: metric(logits.sigmoid(), labels.long())
