"""A run's score, made again of its rows: against scikit-learn and SciPy, on all rows and on drawn ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as sk

from rwkd_lightning.report.rows import COUNTED, SCORES, read, scorer
from rwkd_lightning.run.outputs import write_predictions

RANDOM = np.random.default_rng(0)
CLASSES, N = 3, 200
LABEL, LOGITS = RANDOM.integers(CLASSES, size=N), RANDOM.normal(size=(N, CLASSES))
BINARY, TWO = RANDOM.integers(2, size=N), RANDOM.normal(size=(N, 2))
SETS, SETS_SAID = RANDOM.integers(2, size=(N, CLASSES)), RANDOM.normal(size=(N, CLASSES))
NUMBER, SAID = RANDOM.integers(6, size=N) * 1.0, np.round(RANDOM.normal(size=(N, 1)), 1)
PEERS = {
    ("class", "accuracy"): (LABEL, LOGITS, lambda y, z: sk.accuracy_score(y, z.argmax(1))),
    ("class", "macro_f1"): (
        LABEL,
        LOGITS,
        lambda y, z: sk.f1_score(y, z.argmax(1), labels=range(CLASSES), average="macro", zero_division=0),
    ),
    ("class", "f1"): (BINARY, TWO, lambda y, z: sk.f1_score(y, z.argmax(1), zero_division=0)),
    ("class", "matthews"): (LABEL, LOGITS, lambda y, z: sk.matthews_corrcoef(y, z.argmax(1))),
    ("number", "pearson"): (NUMBER, SAID, lambda y, z: stats.pearsonr(y, z[:, 0])[0]),
    ("number", "spearman"): (NUMBER, SAID, lambda y, z: stats.spearmanr(y, z[:, 0])[0]),
    ("labels", "micro_f1"): (SETS, SETS_SAID, lambda y, z: sk.f1_score(y, z > 0, average="micro")),
    ("labels", "macro_f1"): (SETS, SETS_SAID, lambda y, z: sk.f1_score(y, z > 0, average="macro", zero_division=0)),
}


@pytest.mark.parametrize("name", SCORES, ids="-".join)
def test_as_the_peers_score(name: tuple[str, str]) -> None:
    """Prevents: a bootstrap of another score than the one that the table shows, ties and absent classes among them."""
    label, output, peer = PEERS[name]
    score = SCORES[name](label, output)
    for drawn in (np.arange(N), RANDOM.integers(N, size=N), RANDOM.integers(N, size=12)):
        assert score(drawn) == pytest.approx(peer(label[drawn], output[drawn]), abs=1e-12)


@pytest.mark.filterwarnings("ignore")
def test_what_is_not_defined() -> None:
    """Prevents: a warning or an exception in the one drawing that holds a single class."""
    same = np.flatnonzero(LABEL == 1)
    assert SCORES["class", "matthews"](LABEL, LOGITS)(same) == 0
    assert np.isnan(SCORES["number", "pearson"](NUMBER, SAID)(np.zeros(5, int)))
    assert COUNTED["f1"](0, 0, 0) == 0 and scorer("npmi", {"label": LABEL, "output": LOGITS}) is None


def test_a_score_of_each_row() -> None:
    """Prevents: rankings, whose score is the mean of one of each query, without rows to draw."""
    score = scorer("ndcg@10", {"idx": np.arange(4), "ndcg@10": np.array([0.0, 0.5, 1.0, 1.0])})
    assert score is not None and score(np.array([1, 1, 3])) == pytest.approx(2 / 3)


def write(folder: Path, label: np.ndarray = LABEL) -> Path:
    folder.mkdir()
    rows = {"idx": torch.arange(N), "label": torch.from_numpy(label), "output": torch.from_numpy(LOGITS).float()}
    write_predictions(folder / "predictions.parquet", {"validation": {k: v[:9] for k, v in rows.items()}, "test": rows})
    return folder


def test_from_the_file(tmp_path: Path) -> None:
    """Prevents: rows of another split, of other labels or of a run that was scored again, taken for this one's."""
    known = sk.accuracy_score(LABEL, LOGITS.argmax(1))
    found = read(write(tmp_path / "a"), "test", "accuracy", known)
    assert found is not None and found.size == N and found.score(np.arange(N)) == pytest.approx(known)
    again = read(write(tmp_path / "b"), "test", "accuracy", known)
    assert again is not None and again.identity == found.identity
    assert read(tmp_path / "a", "test", "accuracy", known + 0.01) is None  # not the run's own score
    assert read(tmp_path / "a", "hidden", "accuracy", known) is None and read(tmp_path, "test", "f1", 1.0) is None
    other = (LABEL + 1) % CLASSES
    moved = read(write(tmp_path / "c", other), "test", "accuracy", sk.accuracy_score(other, LOGITS.argmax(1)))
    assert moved is not None and moved.identity != found.identity
    (tmp_path / "a/predictions.parquet").write_bytes(b"no table")
    assert read(tmp_path / "a", "test", "accuracy", known) is None
