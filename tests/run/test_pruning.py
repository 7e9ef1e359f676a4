"""Trials of a search that end early, by Optuna's sweeper as it is, and what is left of them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from rwkd_lightning.cli import tuning
from rwkd_lightning.report.runs import finished as finished_runs
from rwkd_lightning.run import pruning
from rwkd_lightning.run.pruning import Pruning, remember
from rwkd_lightning.utils.errors import Pruned, UserError
from tests.forked import Command, train
from tests.run.test_pipeline_run import config, finished

if not tuning.installed("hydra_plugins.hydra_optuna_sweeper"):
    pytest.skip("hydra-optuna-sweeper is not installed", allow_module_level=True)
import optuna


class Second(optuna.pruners.BasePruner):
    """Prunes the second trial after its first epoch."""

    def prune(self, study: Any, trial: Any) -> bool:
        return bool(trial.number == 1)


def second_pruned() -> None:
    """Let studies prune the second trial, and say how trials end."""
    create = optuna.create_study

    def create_study(**options: Any) -> Any:
        study = create(**options, pruner=Second())
        tell = study.tell

        def told(trial: Any, **result: Any) -> None:
            try:
                tell(trial, **result)  # raises after the last trial of a grid, which the sweeper expects
            finally:
                ended = study.trials[trial.number]
                print("told", trial.number, ended.state.name, ended.value, ended.intermediate_values, flush=True)

        study.tell = told
        return study

    optuna.create_study = create_study


def test_a_pruned_trial(arguments: list[str], tmp_path: Path) -> None:
    """Prevents: a pruned trial that is a finished or a failed one to the study, to `report` or to the next command, and
    one that cannot go on, or goes on to another end than a run that was never pruned.
    """
    search = ["-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra/sweeper/sampler=grid"]
    done = Command(*search, *arguments, "weighting=kd,ce", "callbacks=pruning", prepare=second_pruned).completed()
    assert done.returncode == 0, done.stdout
    told = [line.split(" ", 3) for line in done.stdout.splitlines() if line.startswith("told ")]
    assert [line[:3] for line in told] == [["told", "0", "COMPLETE"], ["told", "1", "PRUNED"]]
    assert "#1 pruned after epoch 1, with 0." in done.stdout and "{1: 0." in told[1][3]
    runs = list((tmp_path / "runs").rglob("train.log"))
    (kept,), lacking = finished_runs(tmp_path / "runs")
    (left,) = (file.parent for file in runs if file.parent != kept.folder)
    assert [one.folder for one in lacking] == [left] and "pruned" in lacking[0].why
    assert not (left / "metrics.json").exists() and len(list((left / "checkpoints").glob("step-*.ckpt"))) == 1
    assert OmegaConf.load(next((tmp_path / "runs").rglob("optimization_results.yaml"))).best_value == kept.meta

    method = f"weighting={left.name.split('-')[0]}"
    on = train(*arguments, method)
    assert on.returncode == 0 and "resuming from" in on.stdout and (left / "metrics.json").exists()
    whole = finished(arguments, tmp_path / "whole", method)
    resumed = json.loads((left / "metrics.json").read_text())
    assert [resumed[key] for key in ("meta", "student")] == [whole[key] for key in ("meta", "student")]
    tables = [pq.read_table(folder / "weights.parquet") for folder in (left, tmp_path / "whole")]
    assert tables[0].equals(tables[1])


def fitted(score: float, epoch: int) -> Any:
    return SimpleNamespace(callback_metrics={"meta/accuracy": score}, current_epoch=epoch)


def test_the_median_prunes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents: a study that prunes the best trials, or one score of an epoch given as that of the next."""
    monkeypatch.setattr(pruning, "trials", [])
    study = optuna.create_study(direction="maximize")
    for number in range(8):
        trial = study.ask()
        remember(None, trial)
        callback = Pruning("meta/accuracy")
        monkeypatch.setattr(callback, "trial", lambda: pruning.trials[-1])
        quality, ended = [0.5, 0.6, 0.7, 0.8, 0.9, 0.65, 0.95, float("nan")][number], 2
        callback.on_train_epoch_start(fitted(9.0, 0), None)  # nothing is known yet
        try:
            for epoch in (1, 2):
                callback.on_validation_end(fitted(quality * epoch, epoch - 1), None)
                callback.on_train_epoch_start(fitted(0.0, epoch), None)
        except Pruned as error:
            ended, value = 1, error.score
        study.tell(trial, quality if ended == 2 else value)
        assert (trial.number in study.pruned) is (number in (5, 7)) is (ended == 1), number
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE"] * 5 + ["PRUNED", "COMPLETE", "PRUNED"]
    assert study.trials[0].intermediate_values == {1: 0.5, 2: 1.0} and study.best_value == 0.95


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "shown this process none; add -m hydra/sweeper=optuna, without hydra/launcher"),
        (["trainer.devices=2", "trainer=ddp"], "trainer.devices=2; set trainer.devices=1"),
        (["callbacks.pruning.monitor=loss"], "pruning monitors 'loss', which is no score on the meta split"),
    ],
)
def test_where_nothing_can_be_pruned(
    more: list[str], said: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prevents: a search that says it prunes and does not; a training by the test split or by the loss."""
    if more:
        monkeypatch.setattr(Pruning, "trial", lambda self: None)
    with pytest.raises(UserError, match=said):
        finished([*arguments, "callbacks=pruning", *more], tmp_path / "a", "weighting=kd")


def test_pruning_names_no_run(arguments: list[str]) -> None:
    """Prevents: a pruned run that the command without the search does not find."""
    from rwkd_lightning.run.identity import run_digest

    assert run_digest(config(arguments)) == run_digest(config([*arguments, "callbacks=pruning"]))
