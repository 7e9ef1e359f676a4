"""Whole runs of summarisation on tiny documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch

from rwkd_lightning.predict import __main__ as predict
from rwkd_lightning.report import rows as scored
from rwkd_lightning.run.build import weighting_of
from rwkd_lightning.utils.errors import UserError
from tests.run.test_pipeline_run import config, finished
from tests.run.test_resume import check_same, power_cut
from tests.systems.summaries.conftest import overrides


@pytest.mark.parametrize("method", ["kd", "rwkd", "l2rw", "gradnorm"])
def test_methods_leave_a_whole_summary_run(method: str, tiny: list[str], tmp_path: Path) -> None:
    """Prevents: a method that trains on tokens, but whose results cannot be loaded or read."""
    folder = tmp_path / method
    result = finished(tiny, folder, f"weighting={method}", "data.label_noise=0.4", "data.teacher_noise=0.4")
    assert json.loads((folder / "metrics.json").read_text()) == result
    assert (result["task"], result["metric"]) == ("tiny", "rouge1")
    for metric in ("rouge1", "rouge2", "rougeL"):  # again, from the rows that the run leaves
        assert scored.read(folder, "test", metric, result["student"]["test"][metric]) is not None
    composed = config([*tiny, f"weighting={method}"])
    assert (result["cost"]["meta_steps"] > 0) == weighting_of(composed).needs_influence
    table = pyarrow.parquet.read_table(folder / "weights.parquet").to_pydict()
    w = torch.tensor([table[f"w_{term}"] for term in composed.terms])
    assert bool(w.isfinite().all()) and bool((w > 0).any()) and set(table["visits"]) == {2}
    assert sum(table["label_flipped"]) > 0 and sum(table["teacher_corrupted"]) > 0
    assert "student" in (folder / "summaries.html").read_text()


@pytest.mark.parametrize("method", ["tgeo", "wls", "teacher_confidence", "annealing_kd"])
def test_methods_that_read_classes_are_refused_for_summaries(method: str, tiny: list[str], tmp_path: Path) -> None:
    """Prevents: a method that takes a token for a class."""
    with pytest.raises(UserError, match=r"use `?weighting="):
        finished(tiny, tmp_path / "run", f"weighting={method}")
