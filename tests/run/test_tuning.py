"""Searches through Hydra's sweepers: the score that a run returns, what is refused, and one of two trials by Optuna."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from rwkd_lightning.cli import tuning
from rwkd_lightning.cli.overrides import check
from rwkd_lightning.systems.text import system as text
from rwkd_lightning.systems.text.build import data_of
from rwkd_lightning.systems.text.data.task import column
from rwkd_lightning.utils.errors import UserError
from tests.forked import train
from tests.run.test_pipeline_run import ROOT, config, finished

CONF = ROOT / "conf"
OPTUNA = tuning.installed("hydra_plugins.hydra_optuna_sweeper")
SEARCH = "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"


# The score


def test_the_score_is_that_of_the_student_on_the_meta_split(arguments: list[str], tmp_path: Path) -> None:
    """Prevents: a search by the test split, by the teacher, or by a student that is not the one that is written."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    result = finished(arguments, tmp_path / "a", "weighting=ce", "optimizer.lr=3e-2", "trainer.max_epochs=3")
    rows = data_of(config(arguments)).splits["meta"]
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "a/student").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "a/student")
    with torch.no_grad():
        found = [int(model(**tokenizer(one, return_tensors="pt")).logits.argmax()) for one in rows["text"]]
    right = sum(a == b for a, b in zip(found, column(rows, "label").tolist(), strict=True))
    assert result["meta"] == {"accuracy": pytest.approx(right / len(rows))}
    assert json.loads((tmp_path / "a/metrics.json").read_text())["meta"] == result["meta"]
    assert tuning.objective(result, tmp_path, SEARCH) == result["meta"]["accuracy"] not in (0.0, 1.0)


def test_the_test_split_has_no_part_in_it(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prevents: settings chosen by what they are to be judged by."""
    first = finished(arguments, tmp_path / "a", "weighting=kd")
    real = data_of

    def other(composed: Any) -> Any:
        data = real(composed)
        for split in data.task.evaluation_splits:
            data.splits[split] = data.splits["teacher_train"]
        return data

    monkeypatch.setattr(text, "data_of", other)
    second = finished(arguments, tmp_path / "b", "weighting=kd")
    assert second["meta"] == first["meta"] and second["student"] != first["student"]


@pytest.mark.parametrize(
    ("result", "score"),
    [
        ({"meta": {"accuracy": 0.75}}, 0.75),
        ({"meta": {"likelihood": -7.5}}, -7.5),
        ({}, None),
        ({"meta": {"pearson": None}}, -math.inf),
        ({"meta": {"pearson": math.nan}}, -math.inf),  # read back, and fresh
    ],
)
def test_objective(result: dict[str, Any], score: float | None) -> None:
    """Prevents: Optuna's traceback for a correlation that is not defined; a score from a process that trains along."""
    assert tuning.objective(result, Path("x"), SEARCH) == score


def test_a_run_of_an_earlier_version_has_no_score() -> None:
    """Prevents: "Return value must be float-castable" after an hour of other trials."""
    with pytest.raises(UserError, match="the run in x was finished before .* add force=true"):
        tuning.objective({"student": {}}, Path("x"), SEARCH)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        basic = compose("config", return_hydra_config=True).hydra.sweeper._target_
    assert tuning.objective({"student": {}}, Path("x"), basic) is None


# What is refused


def mistake(*arguments: str) -> str:
    with pytest.raises(UserError) as caught:
        check(arguments, CONF)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", tuning.PACKAGES)
def test_sweepers_that_are_not_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents: Hydra's list of search paths for a package that is missing, and a search that does a single run."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    assert f"pip install hydra-{name}-sweeper" in mistake("-m", f"hydra/sweeper={name}", "seed=0,1")
    assert "put -m first" in mistake(f"hydra/sweeper={name}", "seed=0")


def test_packages_within_packages_that_are_not_there() -> None:
    """Prevents: a traceback of importlib where no plugin of Hydra's is installed at all."""
    assert not tuning.installed("no_such_package.module") and tuning.installed("hydra.core.plugins")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["optimizer.lr=interval(1e-4,1e-2)"], "add hydra/sweeper=optuna, or write optimizer.lr=A,B,C"),
        (["optimizer.lr=interval(0,0.01)"], "optimizer.lr is 0.0; give a number above 0"),
        (["optimizer.lr=interval(0.01,nan)"], "not finite"),
        (["data.batch_size=interval(8,32)"], "for whole ones write data.batch_size=int(interval(8,32))"),
        (["data.batch_size=interval(8.5,32)"], "data.batch_size=8.5 is not a whole number"),
        (["data.bath_size=int(interval(8,32))"], "did you mean data.batch_size?"),
    ],
)
def test_intervals(arguments: list[str], said: str) -> None:
    """Prevents: an interval of which only Hydra knows, and complains that -m is missing; ends of it that cannot be."""
    assert said in mistake("-m", *arguments)


@pytest.mark.parametrize(
    ("sweeper", "said"),
    [
        ({"direction": "minimize"}, "hydra.sweeper.direction=minimize would look for the worst student"),
        ({"direction": ["maximize", "minimize"]}, "write hydra.sweeper.direction=maximize"),
        ({"optim": {"maximize": False}}, "write hydra.sweeper.optim.maximize=true"),
        ({"ax_config": {"experiment": {"minimize": True}}}, "write hydra.sweeper.ax_config.experiment.minimize=false"),
    ],
)
def test_a_search_for_the_worst(sweeper: dict[str, Any], said: str) -> None:
    """Prevents: the default of Optuna, Ax and Nevergrad, for which the best student is the one with the lowest
    score.
    """
    with pytest.raises(UserError) as caught:
        tuning.check_sweeper(OmegaConf.create({"_target_": "a.B", **sweeper}), [], CONF)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "sweeper",
    [{}, {"direction": "maximize"}, {"optim": {"maximize": True}}, {"ax_config": {"experiment": {"minimize": False}}}],
)
def test_a_search_for_the_best(sweeper: dict[str, Any]) -> None:
    """Prevents: a check that stands in the way of what is right."""
    tuning.check_sweeper(OmegaConf.create({"_target_": "a.B", **sweeper}), [], CONF)


# Optuna


@pytest.mark.skipif(not OPTUNA, reason="hydra-optuna-sweeper is not installed")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["hydra.sweeper.direction=minimize", "seed=0,1"], "write hydra.sweeper.direction=maximize"),
        (
            ["weighting=glob(rwkd*)"],
            "Optuna takes no glob; write weighting=rwkd,rwkd_cross_fitted,rwkd_online,rwkd_plain",
        ),
        (["terms=[ce],[ce,kd]"], "not among lists"),
        (["optimizer.lr=1e-3", "optimizer.lr=interval(1e-4,1e-2)"], "optimizer.lr is given twice"),
        (["data.batch_size=interval(8,32)"], "for whole ones write data.batch_size=int(interval(8,32))"),
    ],
)
def test_what_optuna_cannot_take(arguments: list[str], said: str) -> None:
    """Prevents: an AssertionError of the plugin's, a search that quietly searches nothing."""
    assert said in mistake("-m", "hydra/sweeper=optuna", *arguments)


@pytest.mark.skipif(not OPTUNA, reason="hydra-optuna-sweeper is not installed")
@pytest.mark.parametrize(
    "setting",
    [
        "optimizer.lr=interval(1e-4,1e-2)",
        "optimizer.lr=tag(log, interval(1e-4,1e-2))",
        "data.batch_size=int(interval(8,32))",
        "seed=range(0,3)",
        "optimizer.lr=range(0.01,0.05,0.01)",
        "weighting=choice(kd,ce)",
        "weighting=kd,ce",
        "seed=shuffle(0,1,2)",
        "seed=shuffle(range(0,3))",
        "+experiment=corruption",
    ],
)
def test_what_optuna_takes(setting: str) -> None:
    """Prevents: a check that refuses what the sweeper knows."""
    check(["-m", "hydra/sweeper=optuna", setting], CONF)


@pytest.mark.skipif(not OPTUNA, reason="hydra-optuna-sweeper is not installed")
def test_a_search_by_optuna(arguments: list[str], tmp_path: Path) -> None:
    """Prevents: trials that train and return nothing, a best trial that is the worst, another score than that of the
    run.
    """
    search = [
        "-m",
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=2",
        *arguments,
        "weighting=kd,ce",
        "hydra/sweeper/sampler=grid",
    ]
    done = train(*search)
    assert done.returncode == 0, done.stderr
    scores = {
        file.parent.name.split("-")[0]: json.loads(file.read_text())["meta"]["accuracy"]
        for file in (tmp_path / "runs").rglob("metrics.json")
    }
    found = OmegaConf.load(tmp_path / "runs/optimization_results.yaml")
    assert set(scores) == {"kd", "ce"}
    assert found.best_value == max(scores.values()) == scores[found.best_params.weighting]
    again = train(*search)  # finished runs return their scores
    assert again.returncode == 0 and again.stdout.count("already finished") == 2
    again_found = OmegaConf.load(tmp_path / "runs/optimization_results.yaml")
    assert (
        again_found.best_value == found.best_value == scores[again_found.best_params.weighting]
    )  # of equals either may be best
    failed = train(*search, "temperature=-1")
    assert failed.returncode == 1 and "temperature is -1" in failed.stderr and "Traceback" not in failed.stderr
