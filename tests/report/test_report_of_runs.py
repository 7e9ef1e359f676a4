"""Runs of a sweep or a search side by side."""

from __future__ import annotations

import csv
import json
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from rwkd_lightning.report.__main__ import main
from rwkd_lightning.report.runs import differing, finished, grouped
from rwkd_lightning.report.table import table
from rwkd_lightning.run.outputs import write_predictions


def run(
    folder: Path,
    seed: int,
    method: str,
    lr: float,
    meta: float | None,
    test: float,
    changed: dict[str, Any] | None = None,
    rows: Sequence[int] | None = None,
    **more: Any,
) -> None:
    """A run's files; ``rows``: which of its test rows it has right, of which ``test`` is the share."""
    folder.mkdir(parents=True)
    config = {
        "seed": seed,
        "runs_dir": str(folder),
        "weighting_name": method,
        "weighting": {"_target_": f"x.{method}", "lr": lr},
        "optimizer": {"lr": 1e-4},
        "data": {"label_noise": 0.4},
        **(changed or {}),
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
    if rows is not None:
        right = torch.tensor(list(rows))
        columns = {"idx": torch.arange(len(right)), "label": torch.ones(len(right), dtype=torch.long)}
        columns["output"] = torch.stack([1.0 - right, right.float()], 1)
        write_predictions(folder / "predictions.parquet", {"test": columns})


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
    found, failed = finished(runs)
    assert differing(found) == ["weighting_name", "weighting.lr"] and failed == []
    head, *rows = table([(setting, None) for setting in grouped(found, differing(found))], differing(found))
    assert head[2:] == ("seeds", "meta", "test", "seconds", "MiB")
    tests = [0.6, 0.62, 0.64]
    expected = f"{statistics.fmean(tests):.4f} ± {statistics.stdev(tests):.4f}"
    assert [row[2] for row in rows] == ["3", "3", "1"]
    assert {"0.01", "rwkd"} == set(rows[0][:2]) and rows[0][3] == "0.7600 ± 0.0100" and rows[0][4] == "0.5000 ± 0.0000"
    assert rows[1][4:] == (expected, "11", "-") and rows[2][3] == "undefined"


def test_the_command(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prevents: a page with markup from a setting, or without the picture of a number that was searched."""
    assert main([str(runs)]) == 0
    said = capsys.readouterr().out
    assert "7 runs; wrote" in said and "0.7600 ± 0.0100" in said
    page = (runs / "report.html").read_text()
    assert "&lt;kd&gt;" in page and "<kd>" not in page and "meta against weighting.lr" in page
    assert page.count("h0") == 7 + 6 + 6  # on the test split; the run without a score on the meta split is in no other


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
    assert "--split dev: these runs have scores on test" in refused(str(runs), "--split", "dev")
    assert "--metric bleu: these runs have accuracy, macro_f1" in refused(str(runs), "--metric", "bleu")
    assert "ends in .html" in refused(str(runs), "--out", str(tmp_path / "page.md"))
    assert "--draws 9 is too few" in refused(str(runs), "--draws", "9")
    for given, said in {
        "kd": "write KEY=VALUE",
        "weighting=dw": "no finished run is so (weighting is <kd>, rwkd)",
        "weighting=rwkd": "means 2 settings, which differ in weighting.lr; add --baseline weighting.lr=0.01",
    }.items():
        assert said in refused(str(runs), "--baseline", given)


def test_runs_that_failed_are_listed(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prevents: one broken run of a hundred that hides the others, and one that is left out without a word."""
    (runs / "c/metrics.json").write_text("{}")
    (runs / "a1/metrics.json").unlink()
    (runs / "a2/metrics.json").unlink()
    (runs / "a2/failed_step.json").write_text("{}")
    (runs / "b0/.hydra").mkdir()
    (runs / "b0/.hydra/config.yaml").write_text("{}")  # of no run
    assert main([str(runs)]) == 0
    said = capsys.readouterr().out
    for name, why in {"c": "(KeyError)", "a1": "the same command goes on with it", "a2": "not finite"}.items():
        assert f"without a result: {runs / name}: " in said and why in said
        assert all(str(runs / name) in (runs / f"report.{kind}").read_text() for kind in ("html", "md", "json"))
    assert said.count("without a result") == 3 and "4 runs; wrote" in said


ROWS = 60


def drawn(seed: int, share: float) -> list[int]:
    """Right answers, the same rows in each seed but for a few."""
    hard = np.random.default_rng(0).random(ROWS)
    return [int(x) for x in hard + np.random.default_rng(seed + 1).normal(0, 0.05, ROWS) < share]


def write_runs(folder: Path) -> None:
    """``kd`` and ``rwkd`` with and without noise, the second better by a third of the rows."""
    for seed in range(5):
        for noise in (0.0, 0.4):
            for method, share in (("kd", 0.5), ("rwkd", 0.8)):
                rows = drawn(seed, share - noise / 2)
                changed = {"data": {"label_noise": noise}}
                test = sum(rows) / ROWS
                name = folder / f"{method}{noise}{seed}"
                run(name, seed, method, 1e-3 * len(method), test, test, changed, rows)


def test_against_a_baseline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prevents: a setting compared with the baseline of another noise or seed, a family of tests that is too small, and
    files that say different things.
    """
    write_runs(tmp_path)
    assert main([str(tmp_path), "--baseline", "weighting=kd", "--draws", "500"]) == 0
    said = capsys.readouterr().out
    assert f"over seeds and {ROWS} test rows" in said and "corrected for 2 comparisons" in said
    records = json.loads((tmp_path / "report.json").read_text())["settings"]
    assert sum(record["baseline"] for record in records) == 2
    for record in records:
        noise = record["settings"]["data.label_noise"]
        if record["baseline"]:
            assert record["difference"] is None
            continue
        gains = [
            sum(drawn(seed, 0.8 - noise / 2)) / ROWS - sum(drawn(seed, 0.5 - noise / 2)) / ROWS for seed in range(5)
        ]
        of = record["difference"]
        assert of["mean"] == pytest.approx(statistics.fmean(gains)) and of["low"] < of["mean"] < of["high"]
        assert (of["seeds"], of["rows"], record["notes"]) == (5, ROWS, [])
        assert of["p"] == pytest.approx(2 / 501) and of["p_holm"] == pytest.approx(2 * of["p"])
        assert record["time"] == pytest.approx(1.0)
    with (tmp_path / "report.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    for line, record in zip(lines, records, strict=True):
        assert float(line["test_mean"]) == record["scores"]["test"]["mean"] and line["seeds"] == "0 1 2 3 4"
        assert line["difference"] == ("" if record["baseline"] else str(record["difference"]["mean"]))
    head, rule, *rest = [x for x in (tmp_path / "report.md").read_text().splitlines() if x.startswith("|")]
    assert head.count("|") == rule.count("|") == rest[0].count("|") and len(rest) == 4
    page = (tmp_path / "report.html").read_text()
    assert page.count("Difference in accuracy to the baseline") == 1
    assert "http" not in page and "<script" not in page and "<link" not in page  # it needs nothing beside itself


def test_what_is_not_paired_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prevents: other test rows, other seeds or another setting compared without a word."""
    write_runs(tmp_path)
    for name in ("kd0.41", "kd0.00", "rwkd0.01", "kd0.02"):
        shutil.rmtree(tmp_path / name)
    rows = drawn(2, 0.5)
    changed = {"data": {"label_noise": 0.0}}
    run(tmp_path / "kd0.02", 2, "kd", 2e-3, 0.5, sum(rows[1:]) / (ROWS - 1), changed, rows[1:])
    (tmp_path / "rwkd0.43/predictions.parquet").unlink()
    rows = drawn(0, 0.5)
    odd = {"data": {"label_noise": 0.2}}
    run(tmp_path / "odd", 0, "rwkd", 4e-3, 0.5, sum(rows) / ROWS, odd, rows)
    assert main([str(tmp_path), "--baseline", "weighting=kd", "--draws", "200"]) == 0
    capsys.readouterr()
    records = json.loads((tmp_path / "report.json").read_text())["settings"]
    notes = {r["settings"]["data.label_noise"]: (r["difference"], r["notes"]) for r in records if not r["baseline"]}
    clean, noisy, alone = notes[0.0], notes[0.4], notes[0.2]
    assert clean[0]["seeds"] == 2 and clean[0]["rows"] == ROWS
    assert clean[1] == [
        "not paired: seed 0, 1",
        "scored on other rows than the baseline: seed 2",
        "2 seeds: the interval may be too narrow",
    ]
    assert noisy[0]["rows"] == 0 and "not paired: seed 1" in noisy[1] and "only seeds are drawn" in noisy[1][-1]
    assert alone == (None, ["no run of weighting=kd has data.label_noise=0.2"])


def test_what_a_method_decides_may_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prevents: a method with loss terms of its own that cannot be compared, or whose other terms are not mentioned;
    runs whose teacher's seed is the run's, each taken for a setting of its own.
    """
    for seed in range(2):
        teacher = {"pair": {"teacher": {"seed": seed}}}
        run(tmp_path / f"a{seed}", seed, "kd", 1e-3, 0.5, 0.5 + seed / 9, {"terms": ["ce", "kd"], **teacher})
        run(tmp_path / f"b{seed}", seed, "wls", 1e-3, 0.6, 0.6 + seed / 9, {"terms": ["ce", "soft_ce"], **teacher})
    assert main([str(tmp_path), "--baseline", "weighting=kd", "--draws", "200"]) == 0
    said = capsys.readouterr().out
    assert "wls: differs from the baseline in terms too" in said and "not paired" not in said
