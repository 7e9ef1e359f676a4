"""The rows that a run was scored on, and its score on any drawing of them: for a bootstrap over test rows.

``predictions.parquet`` holds for each row either

- ``label`` and ``output``: a class and the C logits; a number and one output; or 0 and 1 for each of C labels and their
  C logits. Their score is one of `SCORES`.
- a column of the metric's own name, the score of the row: their mean.
- ``right``, ``said`` and ``there``: how many things of the row were found, said, and are there. Their score is one of
  `COUNTED`, of the sums over rows (micro).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FILE = "predictions.parquet"
CLOSE = 1e-5
"""A score made of rows again differs from the run's own by rounding only; that is of float32."""
Array = np.ndarray[Any, np.dtype[Any]]
Score = Callable[[Array], float]
"""The score of the rows whose places ``(M,)`` are given, each as often as it is."""


@dataclass(frozen=True)
class Rows:
    """N scored rows of one split."""

    identity: str
    """The same for the same rows with the same labels, in the same order."""
    score: Score
    size: int


def read(folder: Path, split: str, metric: str, known: float) -> Rows | None:
    """The rows of a run's split by a metric.

    Args:
        known: the run's own score, which that of all rows must be.

    Returns:
        None where there are no rows, or none that this metric is made of.
    """
    import pyarrow.compute
    import pyarrow.parquet

    file = folder / FILE
    if not file.is_file():
        return None
    try:
        table = pyarrow.parquet.read_table(file, filters=pyarrow.compute.field("split") == split)
        columns = {name: array(table[name]) for name in table.column_names if name != "split"}
        score = scorer(metric, columns)
    except (OSError, ValueError, KeyError, pyarrow.ArrowException):  # of a file that is not a run's
        return None
    everything = np.arange(table.num_rows)
    if score is None or not len(everything) or not math.isclose(score(everything), known, abs_tol=CLOSE):
        return None
    named = [columns[name].tobytes() for name in ("idx", "label", "there") if name in columns]
    return Rows(hashlib.sha256(b"|".join(named)).hexdigest(), score, table.num_rows)


def array(column: Any) -> Array:
    """A column as ``(N,)``, one of lists as ``(N, C)``."""
    whole = column.combine_chunks()
    if hasattr(whole, "values"):
        return np.stack(whole.to_numpy(zero_copy_only=False))
    plain: Array = whole.to_numpy(zero_copy_only=False)
    return plain


def scorer(metric: str, columns: Mapping[str, Array]) -> Score | None:
    """The score by its name; None where it cannot be had of these columns."""
    if metric in columns:
        each = columns[metric].astype(float)
        return lambda drawn: float(each[drawn].mean())
    if metric in COUNTED and "there" in columns:
        counts = np.stack([columns[name] for name in ("right", "said", "there")]).astype(float)
        quotient = COUNTED[metric]
        return lambda drawn: quotient(*counts[:, drawn].sum(1))
    if "label" not in columns:
        return None
    label, output = columns["label"], columns["output"]
    kind = "labels" if label.ndim == 2 else "number" if output.shape[1] == 1 else "class"
    make = SCORES.get((kind, metric))
    return None if make is None else make(label, output)


def ratio(part: float, whole: float) -> float:
    """A quotient, 0 where there is nothing."""
    return float(part / whole) if whole else 0.0


COUNTED: dict[str, Callable[[float, float, float], float]] = {
    "f1": lambda right, said, there: ratio(2 * right, said + there),
    "precision": lambda right, said, there: ratio(right, said),
    "recall": lambda right, said, there: ratio(right, there),
    "accuracy": lambda right, said, there: ratio(right, there),
}


def accuracy(label: Array, output: Array) -> Score:
    """Share of the rows whose class has the largest logit."""
    right = output.argmax(1) == label
    return lambda drawn: float(right[drawn].mean())


def of_confusion(made: Callable[[Array], float]) -> Callable[[Array, Array], Score]:
    """A score of the confusion matrix ``(C, C)``, true classes down."""

    def make(label: Array, output: Array) -> Score:
        classes = output.shape[1]
        cell = label.astype(np.int64) * classes + output.argmax(1)
        return lambda drawn: made(np.bincount(cell[drawn], minlength=classes**2).reshape(classes, classes))

    return make


def f1_of_each(table: Array) -> Array:
    """F1 of each class, ``(C,)``; 0 for one that is neither there nor said."""
    each: Array = 2 * table.diagonal() / np.maximum(table.sum(0) + table.sum(1), 1)
    return each


def matthews(table: Array) -> float:
    """The correlation of Matthews for C classes (Gorodkin 2004); 0 where labels or predictions are of one class."""
    said, there, number = table.sum(0).astype(float), table.sum(1).astype(float), float(table.sum())
    spread = (number**2 - said @ said) * (number**2 - there @ there)
    return ratio(table.trace() * number - said @ there, math.sqrt(spread))


def of_numbers(prepared: Callable[[Array], Array]) -> Callable[[Array, Array], Score]:
    """The correlation of what is prepared of outputs and labels; NaN where one of them is constant."""

    def make(label: Array, output: Array) -> Score:
        said, there = output[:, 0].astype(float), label.astype(float)

        def score(drawn: Array) -> float:
            x, y = prepared(said[drawn]), prepared(there[drawn])
            x, y = x - x.mean(), y - y.mean()
            both = math.sqrt((x @ x) * (y @ y))
            return float(x @ y / both) if both else math.nan

        return score

    return make


def ranks(values: Array) -> Array:
    """Ranks ``(N,)``, the mean one of those that are equal."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    last: Array = np.cumsum(counts)
    mean: Array = (last - (counts - 1) / 2)[which]
    return mean


def of_label_sets(mean: Callable[[Array, Array, Array], float]) -> Callable[[Array, Array], Score]:
    """A score of the numbers of labels found, said and there, ``(C,)`` each; a label is said above a logit of 0."""

    def make(label: Array, output: Array) -> Score:
        there, said = label > 0.5, output > 0
        right = there & said
        return lambda drawn: mean(right[drawn].sum(0), said[drawn].sum(0), there[drawn].sum(0))

    return make


SCORES: dict[tuple[str, str], Callable[[Array, Array], Score]] = {
    ("class", "accuracy"): accuracy,
    ("class", "macro_f1"): of_confusion(lambda table: float(f1_of_each(table).mean())),
    ("class", "f1"): of_confusion(lambda table: float(f1_of_each(table)[1])),
    ("class", "matthews"): of_confusion(matthews),
    ("number", "pearson"): of_numbers(lambda values: values),
    ("number", "spearman"): of_numbers(ranks),
    ("labels", "micro_f1"): of_label_sets(
        lambda right, said, there: ratio(2 * right.sum(), said.sum() + there.sum()),
    ),
    ("labels", "macro_f1"): of_label_sets(
        lambda right, said, there: float((2 * right / np.maximum(said + there, 1)).mean())
    ),
}
"""By what the labels are, and the metric's name; each of labels ``(N,)`` or ``(N, C)`` and outputs ``(N, C)``."""
