"""Metrics against scikit-learn and SciPy."""

import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as sklearn_metrics

from rwkd_lightning.systems.text.data.task import TaskSpec
from rwkd_lightning.systems.text.metrics import metrics, score
from rwkd_lightning.utils.errors import UserError

RNG = np.random.default_rng(0)
N = 60
CLASS_PAIRS = {  # (predictions, labels) for C classes
    "random": lambda c: (RNG.integers(0, c, N), RNG.integers(0, c, N)),
    "constant 0": lambda c: (np.zeros(N, int), RNG.integers(0, c, N)),
    "constant 1": lambda c: (np.ones(N, int), RNG.integers(0, c, N)),
    "one label": lambda c: (RNG.integers(0, c, N), np.ones(N, int)),
    "one label, found": lambda c: (np.ones(N, int), np.ones(N, int)),
    "one label, missed": lambda c: (np.zeros(N, int), np.ones(N, int)),
    "perfect": lambda c: (np.arange(N) % c,) * 2,
    "inverse": lambda c: ((np.arange(N) + 1) % c, np.arange(N) % c),
    "last class absent": lambda c: (RNG.integers(0, c - 1, N), RNG.integers(0, c - 1, N)),
    "one row": lambda c: (np.array([1]), np.array([0])),
}


def classification(c, names):
    return TaskSpec("t", ("text",), tuple(map(str, range(c))), names, names[0], ("validation",))


def regression():
    return TaskSpec("t", ("text",), None, ("pearson", "spearman"), "pearson", ("validation",))


@pytest.mark.parametrize("c", [2, 3, 5])
@pytest.mark.parametrize("case", list(CLASS_PAIRS))
def test_classification_equals_scikit_learn(c, case):
    """Prevents scores that differ from the published definitions just where a student has collapsed to one class."""
    predicted, labels = CLASS_PAIRS[case](c)
    logits = torch.tensor(RNG.uniform(-1, 0, (len(predicted), c)))
    logits[torch.arange(len(predicted)), torch.tensor(predicted)] = 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {
            "accuracy": sklearn_metrics.accuracy_score(labels, predicted),
            "macro_f1": sklearn_metrics.f1_score(labels, predicted, labels=range(c), average="macro", zero_division=0),
            "matthews": sklearn_metrics.matthews_corrcoef(labels, predicted),
        }
        if c == 2:
            expected["f1"] = sklearn_metrics.f1_score(labels, predicted, zero_division=0)
    found = score(classification(c, tuple(expected)), logits, torch.tensor(labels))
    assert found == pytest.approx(expected, abs=1e-6)


Y = RNG.uniform(0, 5, N)
VALUE_PAIRS = {
    "random": (RNG.normal(size=N), Y),
    "ties": (np.round(Y + RNG.normal(size=N)), np.round(Y)),
    "perfect": (Y, Y),
    "inverse": (-Y, Y),
    "large offset": (1e4 + 1e-3 * (Y + RNG.normal(size=N)), 1e4 + 1e-3 * Y),
    "constant predictions": (np.full(N, 0.1), Y),  # 0.1: its mean is not exactly 0.1
    "constant labels": (Y, np.full(N, 0.1)),
    "NaN prediction": (np.where(np.arange(N) == 3, np.nan, Y), Y),
}


@pytest.mark.parametrize("case", list(VALUE_PAIRS))
def test_correlations_equal_scipy(case):
    """Prevents a 0 for what is not defined, wrong ranks of ties, and digits lost beside a large offset."""
    predicted, labels = VALUE_PAIRS[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {"pearson": stats.pearsonr(predicted, labels)[0], "spearman": stats.spearmanr(predicted, labels)[0]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = score(regression(), torch.tensor(predicted)[:, None], torch.tensor(labels))
    assert found == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert np.isnan(found["pearson"]) == (case.startswith(("constant", "NaN")))


def test_float32_logits_are_scored_in_float64():
    """Prevents that a student on a GPU or in bf16 is scored with the precision of its outputs."""
    predicted, labels = (torch.tensor(x, dtype=torch.float32) for x in VALUE_PAIRS["large offset"])
    expected = stats.pearsonr(predicted.double(), labels.double())[0]
    assert score(regression(), predicted[:, None], labels)["pearson"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("c", "name"), [(3, "f1"), (2, "pearson"), (2, "acuracy")])
def test_a_metric_of_another_kind_of_task_is_refused(c, name):
    """Prevents F1 of class 1 being taken for the score of three classes, or a correlation of the first logit."""
    with pytest.raises(UserError, match=name):
        metrics(classification(c, (name,)))
