"""Whole runs of token classification on tiny data."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet
import pytest
import torch

from rwkd_lightning.run.build import weighting_of
from rwkd_lightning.utils.errors import UserError
from tests.run.test_pipeline_run import ROOT, config, finished

REFUSED = ("tgeo", "wls", "teacher_confidence")
METHODS = sorted(p.stem for p in (ROOT / "conf/weighting").glob("*.yaml") if p.stem not in ("given", *REFUSED))


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
