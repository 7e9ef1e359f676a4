"""Several runs of a sweep at a time on one machine, through Hydra's joblib launcher."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from rwkd_lightning.cli import overrides
from rwkd_lightning.report.__main__ import main
from rwkd_lightning.utils.errors import UserError
from tests.forked import ROOT
from tests.run.test_pipeline_run import finished

SWEEP = ["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


def test_two_at_a_time_end_as_one_alone(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prevents: jobs that write into each other's folders, train the same teacher side by side, or give other numbers
    than a run alone; a failed job that ends the others or is lost.
    """
    sweep = [*SWEEP, "optimizer.lr=1e30,3e-3", *(a for a in arguments if not a.startswith("optimizer.lr"))]
    done = subprocess.run(
        [sys.executable, "train.py", *sweep, "weighting=rwkd"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1 and "#0 failed: step 1: the loss" in done.stderr, done.stderr[-2000:]
    (there,) = (tmp_path / "runs").rglob("metrics.json")
    alone = finished([*arguments, "weighting=rwkd", f"cache_dir={tmp_path / 'other'}"], tmp_path / "alone")
    assert json.loads(there.read_text())["student"] == alone["student"]
    assert len(list((tmp_path / "cache/teacher").glob("*/key.json"))) == 1
    assert main([str(tmp_path / "runs")]) == 0
    said = capsys.readouterr().out
    assert "1 runs; wrote" in said and said.count("stopped at a step that was not finite") == 1


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents: a missing package that is told as a missing config."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install hydra-joblib-launcher$"):
        overrides.check([*SWEEP, "seed=0,1"], ROOT / "conf")
