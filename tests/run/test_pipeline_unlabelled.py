"""Runs on training rows without a label, and what their files say of rows for which there is nothing to say."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from sklearn.metrics import roc_auc_score

from rwkd_lightning.systems.text import system as text
from rwkd_lightning.systems.text.data.task import TaskData, column
from rwkd_lightning.systems.text.export import corruption_scores
from rwkd_lightning.utils.errors import UserError
from tests.run.test_pipeline_run import finished
from tests.run.tiny import WORDS


@pytest.fixture
def glue(tmp_path: Path) -> Path:
    """An rte and an stsb of 80 training rows, every second pair of which has no label."""
    draw = random.Random(0)
    words = [word for group in WORDS.values() for word in group]
    for task, without in (("rte", -1), ("stsb", -1.0)):
        for split, rows in (("train", 80), ("validation", 16)):
            texts = {f"sentence{k}": [" ".join(draw.choices(words, k=5 + k)) for _ in range(rows)] for k in (1, 2)}
            labels = [
                (n % 2 if task == "rte" else n % 6 * 0.7) if split == "validation" or n % 4 < 2 else without
                for n in range(rows)
            ]
            (tmp_path / "glue" / task).mkdir(parents=True, exist_ok=True)
            pyarrow.parquet.write_table(
                pa.table({**texts, "label": labels, "idx": range(rows)}),
                tmp_path / f"glue/{task}/{split}-00000-of-00001.parquet",
            )
    return tmp_path / "glue"


@pytest.fixture
def given(arguments: list[str], glue: Path) -> list[str]:
    return [
        *(a for a in arguments if not a.startswith(("task.load", "data.path"))),
        f"data.path={glue}",
        "pair.teacher.epochs=1",
    ]


def table(folder: Path) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = pyarrow.parquet.read_table(folder / "weights.parquet").to_pydict()
    return found


def test_a_run(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Prevents: a refusal of such rows, a teacher that was fine-tuned on them, and a weight of 0 where there is
    none.
    """
    seen: list[TaskData] = []
    real = text.data_of
    monkeypatch.setattr(text, "data_of", lambda config: seen.append(real(config)) or seen[-1])
    with caplog.at_level(logging.INFO, "rwkd_lightning"):
        result = finished(
            given,
            tmp_path / "a",
            "task=rte",
            "weighting=rwkd",
            "meta.start=0",
            "meta.every=1",
            "data.label_noise=0.4",
            "data.teacher_noise=0.4",
        )
    assert "76 rows, 40 of them without a label: the teacher's terms alone teach these" in caplog.text
    assert "teach the student nothing" not in caplog.text
    assert (column(seen[0].splits["teacher_train"], "label") >= 0).all() and (
        column(seen[0].splits["meta"], "label") >= 0
    ).all()

    found = table(tmp_path / "a")
    lacking = [label == -1 for label in found["label"]]
    assert sum(lacking) == 40 and found["visits"] == [2] * 76
    for name in ("w_ce", "loss_ce", "influence_ce", "loss_teacher_ce"):
        assert [value is None for value in found[name]] == lacking
    assert all(w == pytest.approx(1) for w, without in zip(found["w_kd"], lacking, strict=True) if without)
    assert None not in found["influence_kd"] + found["loss_kd"]
    assert not any(flag for flag, without in zip(found["label_flipped"], lacking, strict=True) if without)
    for name, other, term in (
        ("label_flipped", "teacher_corrupted", "ce"),
        ("teacher_corrupted", "label_flipped", "kd"),
    ):
        kept = [row for row in range(76) if not lacking[row] and not found[other][row]]
        scores = {
            "weight": (f"w_{term}", -1),
            "influence": (f"influence_{term}", -1),
            "loss_ce": ("loss_ce", 1),
            "loss_kd": ("loss_kd", 1),
            "loss_teacher_ce": ("loss_teacher_ce", 1),
        }
        expected = {
            key: roc_auc_score([found[name][row] for row in kept], [sign * found[column][row] for row in kept])
            for key, (column, sign) in scores.items()
        }
        assert result["corruption"][name] == pytest.approx(expected)


def test_a_regression(given: list[str], tmp_path: Path) -> None:
    """Prevents: NaN in a student whose scores are partly missing."""
    result = finished(given, tmp_path / "a", "task=stsb", "weighting=kd", "weighting.alpha=0.5")
    found = table(tmp_path / "a")
    assert (
        found["label"].count(None)
        == found["w_squared_error"].count(None)
        == found["loss_squared_error"].count(None)
        == 40
    )
    assert {w for y, w in zip(found["label"], found["w_logit_mse"], strict=True) if y is None} == {1.0}
    assert {w for y, w in zip(found["label"], found["w_logit_mse"], strict=True) if y is not None} == {0.5}
    assert result["student"]["validation"]["pearson"] is not None


def test_the_teacher_alone_and_the_labels_alone(
    given: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Prevents: terms=[kd] that is refused for want of a label term, and rows that a run is silent about not learning
    from.
    """
    finished(given, tmp_path / "kd", "task=rte", "weighting=kd", "terms=[kd]")
    assert set(table(tmp_path / "kd")["w_kd"]) == {1.0} and None not in table(tmp_path / "kd")["loss_kd"]
    for name, terms, more in (
        ("ce", "ce", []),
        ("ce", "ce,kd", []),
        ("rwkd", "ce", []),
        ("kd", "ce,kd", ["weighting.alpha=0"]),
    ):
        caplog.clear()
        with caplog.at_level(logging.INFO, "rwkd_lightning"):
            finished(given, tmp_path / f"{name} {terms}", "task=rte", f"weighting={name}", f"terms=[{terms}]", *more)
        assert (
            f"the 40 rows of 'train' without a label teach the student nothing under weighting={name} terms=[{terms}],"
            " where they weigh 0; they do by a teacher's term: terms=[ce,kd] weighting=kd weighting.alpha=0.5"
            in caplog.text
        )
        found = table(tmp_path / f"{name} {terms}")
        assert {w for y, w in zip(found["label"], found["w_ce"], strict=True) if y >= 0} == {1.0}
        assert found["w_ce"].count(None) == 40
    with pytest.raises(UserError, match="has no label term"):
        finished(given, tmp_path / "b", "task=rte", "weighting=ce", "terms=[kd]")


def test_rows_that_the_training_never_reached(arguments: list[str], tmp_path: Path) -> None:
    """Prevents: rows that look as if the method had found them worthless, as no step came to them."""
    result = finished(
        arguments,
        tmp_path / "a",
        "weighting=rwkd",
        "trainer.max_epochs=null",
        "trainer.max_steps=6",
        "meta.start=0.7",
        "meta.every=1",
        "data.label_noise=0.4",
        "data.teacher_noise=0.4",
    )
    found = table(tmp_path / "a")
    assert sorted(found["visits"]) == [1] * 32 + [2] * 32  # 64 rows, batches of 16
    assert None not in found["w_ce"] + found["loss_kd"]
    reached = [influence is not None for influence in found["influence_ce"]]
    assert sum(reached) == 16 and {v for v, r in zip(found["visits"], reached, strict=True) if r} == {
        2
    }  # only the last step
    finished(arguments, tmp_path / "b", "weighting=kd", "trainer.max_epochs=null", "trainer.max_steps=3")
    found = table(tmp_path / "b")
    unseen = [visits == 0 for visits in found["visits"]]
    assert sum(unseen) == 16
    for name in ("w_ce", "w_kd", "loss_ce", "loss_kd"):
        assert [value is None for value in found[name]] == unseen
    assert found["influence_ce"] == [None] * 64 and None not in found["loss_teacher_ce"]
    assert set(result["corruption"]) <= {"teacher_corrupted", "label_flipped"}


def test_probes_are_scored_on_the_rows_that_have_all_figures() -> None:
    """Prevents: areas that count rows which no step has seen, each of other rows than the next, or none at all for one
    gap.
    """
    g = torch.Generator().manual_seed(0)
    n, nan = 60, float("nan")
    columns = {
        name: torch.randn(n, generator=g)
        for name in ("w_ce", "w_kd", "influence_ce", "influence_kd", "loss_ce", "loss_kd", "loss_teacher_ce")
    }
    columns |= {name: torch.rand(n, generator=g) < 0.4 for name in ("label_flipped", "teacher_corrupted")}
    columns["visits"] = torch.ones(n, dtype=torch.int32)
    columns["visits"][:20] = 0
    for name in ("w_ce", "w_kd", "influence_ce", "influence_kd", "loss_ce", "loss_kd"):
        columns[name][:20] = nan
    columns["influence_kd"][20:25] = nan
    columns["influence_ce"][:] = nan  # no meta step at all
    found = corruption_scores(columns)
    rows = torch.arange(n)
    for name, other, term, kept in (
        ("teacher_corrupted", "label_flipped", "kd", rows >= 25),
        ("label_flipped", "teacher_corrupted", "ce", rows >= 20),
    ):
        kept = kept & ~columns[other]
        scores = {
            "weight": -columns[f"w_{term}"],
            "loss_teacher_ce": columns["loss_teacher_ce"],
            **{f"loss_{t}": columns[f"loss_{t}"] for t in ("ce", "kd")},
        }
        if term == "kd":
            scores["influence"] = -columns["influence_kd"]
        expected = {key: roc_auc_score(columns[name][kept], score[kept]) for key, score in scores.items()}
        assert found[name] == pytest.approx(expected)
    alone = {name: columns[name] for name in ("label_flipped", "teacher_corrupted", "visits", "loss_teacher_ce")}
    kept = (rows >= 20) & ~columns["teacher_corrupted"]  # without a ledger's column that says so
    area = roc_auc_score(columns["label_flipped"][kept], columns["loss_teacher_ce"][kept])
    assert corruption_scores(alone)["label_flipped"]["loss_teacher_ce"] == pytest.approx(area)
