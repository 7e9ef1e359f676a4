"""Runs of a sweep or a search side by side."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml

from rwkd_lightning.report.__main__ import main
from rwkd_lightning.report.runs import differing, finished, table


def run(folder: Path, seed: int, method: str, lr: float, meta: float | None, test: float, **more: Any) -> None:
    folder.mkdir(parents=True)
    config = {
        "seed": seed,
        "runs_dir": str(folder),
        "weighting_name": method,
        "weighting": {"_target_": f"x.{method}", "lr": lr},
        "optimizer": {"lr": 1e-4},
        "data": {"label_noise": 0.4},
    }
    metrics = {
        "task": "tweets",
        "metric": "accuracy",
        "seed": seed,
        "meta": {"accuracy": meta},
        "student": {"test": {"accuracy": test, "macro_f1": 0.0}},
        "cost": {"train_seconds": 10.0 + seed},
        **more,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "metrics.json").write_text(json.dumps(metrics))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed in (0, 1, 2):
        run(tmp_path / f"tweets/a{seed}", seed, "rwkd", 1e-3, 0.70 + seed / 100, 0.6 + seed / 50)
        run(tmp_path / f"tweets/b{seed}", seed, "rwkd", 1e-2, 0.75 + seed / 100, 0.5)
    run(tmp_path / "tweets/c", 0, "<kd>", 1e-3, None, 0.4)
    return tmp_path / "tweets"


def test_settings_over_the_seeds(runs: Path) -> None:
    """Prevents: seeds taken for settings, a choice that is listed under all the keys it changes, a mean over runs of
    different settings, the best one chosen on the test.
    """
    found = finished(runs)
    assert differing(found) == ["weighting.lr", "weighting_name"] or differing(found) == [
        "weighting_name",
        "weighting.lr",
    ]
    head, *rows = table(found)
    assert head[2:] == ("seeds", "meta", "test", "seconds")
    tests = [0.6, 0.62, 0.64]
    expected = f"{statistics.fmean(tests):.4f} ± {statistics.stdev(tests):.4f}"
    assert [row[2] for row in rows] == ["3", "3", "1"]
    assert {"0.01", "rwkd"} == set(rows[0][:2]) and rows[0][3] == "0.7600 ± 0.0100" and rows[0][4] == "0.5000 ± 0.0000"
    assert rows[1][4:] == (expected, "11") and rows[2][3] == "undefined"


def test_the_command(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prevents: a page with markup from a setting, or without the picture of a number that was searched."""
    assert main([str(runs)]) == 0
    said = capsys.readouterr().out
    assert "7 runs; wrote" in said and "0.7600 ± 0.0100" in said
    page = (runs / "report.html").read_text()
    assert "&lt;kd&gt;" in page and "<kd>" not in page and "meta against weighting.lr" in page
    assert page.count("h0") == 6 + 6  # the run without a score is in no picture


def test_what_cannot_be_compared(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prevents: a traceback, tasks that are compared with each other, the page of a run that is replaced."""

    def refused(*given: str) -> str:
        assert main(list(given)) == 1
        said = capsys.readouterr().err.strip()
        assert "\n" not in said
        return said

    assert "holds no finished run" in refused(str(tmp_path / "nowhere"))
    assert "is one run, whose page is" in refused(str(runs / "c"))
    run(tmp_path / "other/x", 0, "kd", 1.0, 0.5, 0.5, task="mrpc")
    assert "holds runs of mrpc and tweets; give the folder of one task" in refused(str(tmp_path))
    (runs / "c/metrics.json").write_text("{}")
    assert "cannot be read as that of a run (KeyError)" in refused(str(runs))
