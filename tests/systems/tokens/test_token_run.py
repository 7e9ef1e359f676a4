"""Whole runs of token classification on tiny data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch

from rwkd_lightning.report import rows as scored
from rwkd_lightning.run.build import weighting_of
from rwkd_lightning.utils.errors import UserError
from tests import shipped_methods
from tests.run.test_pipeline_run import config, finished
from tests.run.test_resume import check_same, power_cut

REFUSED = ("tgeo", "wls", "teacher_confidence")
METHODS = sorted({*shipped_methods.METHODS} - {*REFUSED})


@pytest.mark.parametrize("method", METHODS)
def test_every_method_leaves_a_whole_run_behind(method: str, tiny: list[str], tmp_path: Path) -> None:
    """Prevents: a method that trains on sentences, but whose results cannot be loaded or read."""
    from transformers import pipeline

    folder = tmp_path / method
    noise = ["data.label_noise=0.4", "data.teacher_noise=0.4"]
    result = finished(tiny, folder, f"weighting={method}", *noise)
    assert json.loads((folder / "metrics.json").read_text()) == result
    assert (result["task"], result["metric"]) == ("tokens", "f1")
    assert set(result["student"]["test"]) == {"f1", "precision", "recall", "accuracy"}
    for metric in ("f1", "precision", "recall"):  # the score again, from the rows that the run leaves
        assert scored.read(folder, "test", metric, result["student"]["test"][metric]) is not None
    composed = config([*tiny, f"weighting={method}"])
    bilevel, terms = weighting_of(composed).needs_influence, list(composed.terms)
    assert (result["cost"]["meta_steps"] > 0) == bilevel
    table = pyarrow.parquet.read_table(folder / "weights.parquet").to_pydict()
    w = torch.tensor([table[f"w_{term}"] for term in terms])
    assert bool(w.isfinite().all()) and bool((w > 0).any()) and set(table["visits"]) == {2}
    assert sum(table["label_flipped"]) == sum(table["teacher_corrupted"]) == round(0.4 * len(table["idx"]))
    tagger = pipeline("token-classification", str(folder / "student"), device="cpu", ignore_labels=[])
    said = tagger("Ann Lee went to Rome")
    assert len(said) == 8 and {one["entity"] for one in said} <= {"O", "B-LOC", "I-LOC", "B-PER", "I-PER"}


@pytest.mark.parametrize("method", REFUSED)
def test_methods_that_read_one_class_per_row_are_refused(method: str, tiny: list[str], tmp_path: Path) -> None:
    """Prevents: a method that takes the tags of a sentence for several labels of it."""
    with pytest.raises(
        UserError, match=r"reads one class per row, and a sentence has a tag for each word; use weighting="
    ):
        finished(tiny, tmp_path / "run", f"weighting={method}")


@pytest.mark.parametrize("method", ["rwkd", "l2rw"])
def test_an_interrupted_run_ends_as_if_it_had_not_been(
    method: str, tiny: list[str], tmp_path: Path, last: dict[str, dict[str, Any]]
) -> None:
    """Prevents: a bank of words, or an order of sentences, that a checkpoint loses."""
    arguments = [*tiny, f"weighting={method}", "trainer.log_every_n_steps=1"]
    finished(arguments, tmp_path / "whole")
    with power_cut(5, True):
        finished(arguments, tmp_path / "cut", "checkpoint.steps=1")
    finished(arguments, tmp_path / "cut")
    check_same(tmp_path / "whole", tmp_path / "cut", last)


@pytest.mark.parametrize(("meta", "parts"), [("head", 2), ("last_block", 1), ("all", 1)])
def test_other_meta_steps(meta: str, parts: int, tiny: list[str], tmp_path: Path) -> None:
    """Prevents: a θ whose outputs are those of sentences as one class each."""
    result = finished(tiny, tmp_path / "run", f"meta={meta}", "trainer.max_epochs=1", f"trainer.accumulate={parts}")
    assert result["cost"]["meta_steps"] > 0


def test_weights_of_ones_own_plain_tags_and_a_student_of_the_teacher(tiny: list[str], tmp_path: Path) -> None:
    """Prevents: the same from JSON lines, where a sentence has a weight and the tags mark no entities."""
    lines = [line.split() for line in Path(tiny[1].partition("=")[2]).read_text().split("\n")]
    words: list[list[str]] = [[]]
    for line in lines:
        words[-1].append(line[0]) if line else words.append([])
    rows = [
        {"tokens": w, "tags": ["Aa" if x[0].isupper() else "aa" for x in w], "trust": i % 2}
        for i, w in enumerate(words)
        if w
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments = [*tiny, f"data.train={tmp_path / 'a.jsonl'}", "data.weight=trust", "weighting=given"]
    result = finished(
        arguments, tmp_path / "run", "pair.student.path=teacher", "pair.student.layers=[0]", "terms=[ce,logit_mse]"
    )
    assert result["metric"] == "accuracy" and set(result["student"]["test"]) == {"accuracy", "macro_f1"}
    assert result["teacher"]["test"]["accuracy"] > 0.9
    assert scored.read(tmp_path / "run", "test", "accuracy", result["student"]["test"]["accuracy"]) is not None
    table = pyarrow.parquet.read_table(tmp_path / "run/weights.parquet").to_pydict()
    assert {w == 0 for w, idx in zip(table["w_ce"], table["idx"], strict=True) if idx % 2 == 0} == {True}


def test_a_finished_teacher_is_used_as_it_is(tiny: list[str], tmp_path: Path) -> None:
    """Prevents: a finished student that cannot be the teacher of the next one."""
    finished(tiny, tmp_path / "one", "weighting=ce", "pair.student.layers=null")
    more = [f"pair.teacher.path={tmp_path / 'one'}", "pair.teacher.epochs=0", "weighting=kd"]
    result = finished(tiny, tmp_path / "two", *more)
    one = json.loads((tmp_path / "one/metrics.json").read_text())
    assert result["teacher"]["test"]["f1"] == pytest.approx(one["student"]["test"]["f1"], abs=1e-6)
