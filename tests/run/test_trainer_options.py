"""Every option of ``lightning.Trainer``: honoured, or refused in one line before any data is read."""

from __future__ import annotations

import csv
import inspect
import json
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from omegaconf import open_dict
from safetensors.torch import load_file

from rwkd_lightning.run import build as parts
from rwkd_lightning.run import speed
from rwkd_lightning.run.checkpoints import Checkpoints
from rwkd_lightning.run.identity import run_digest
from rwkd_lightning.run.signals import Stop
from rwkd_lightning.systems.text import system as text
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.utils import bars
from rwkd_lightning.utils.errors import UserError
from tests.run.test_pipeline_run import config, finished

HONOURED: dict[str, Any] = {
    "accelerator": "cpu",
    "strategy": "ddp",
    "devices": 1,
    "num_nodes": 1,
    "precision": "bf16-mixed",
    "fast_dev_run": True,
    "max_epochs": 3,
    "min_epochs": 1,
    "max_steps": 5,
    "min_steps": 2,
    "max_time": "00:01:00:00",
    "limit_train_batches": 0.5,
    "overfit_batches": 2,
    "check_val_every_n_epoch": 2,
    "log_every_n_steps": 7,
    "enable_progress_bar": False,
    "deterministic": True,
    "benchmark": False,
    "inference_mode": False,
    "profiler": "simple",
    "detect_anomaly": True,
    "sync_batchnorm": True,
    "enable_autolog_hparams": False,
}
AS_THE_RUN: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": True,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "barebones": False,
    "gradient_clip_val": None,
    "gradient_clip_algorithm": None,
    "accumulate_grad_batches": 1,
    "limit_val_batches": 1.0,
    "use_distributed_sampler": False,
    "default_root_dir": None,
    "callbacks": [],
    "plugins": None,
    "reload_dataloaders_every_n_epochs": 0,
    "limit_test_batches": None,
    "limit_predict_batches": None,
    "model_registry": None,
    "val_check_interval": None,
}
"""Options that the run sets itself, with the value that says the same."""
REFUSED: dict[str, tuple[Any, str]] = {
    "logger": (True, "use logger=tensorboard"),
    "enable_checkpointing": (False, "goes on from its checkpoints"),
    "barebones": (True, "goes on from its checkpoints"),
    "enable_model_summary": (True, "use callbacks=model_summary"),
    "num_sanity_val_steps": (2, "leave it out"),
    "gradient_clip_val": (1.0, "use trainer.clip"),
    "gradient_clip_algorithm": ("norm", "use trainer.clip"),
    "accumulate_grad_batches": (2, "use trainer.accumulate"),
    "limit_val_batches": (1, "leave it out"),
    "use_distributed_sampler": (True, "leave it out"),
    "default_root_dir": ("/tmp/x", "use runs_dir=DIR"),
    "callbacks": (["a"], "use callbacks=early_stopping"),
    "plugins": (["a"], "leave it out"),
    "reload_dataloaders_every_n_epochs": (1, "leave it out"),
    "limit_test_batches": (2, "leave it out"),
    "limit_predict_batches": (2, "leave it out"),
    "model_registry": ("x", "leave it out"),
    "val_check_interval": (0.5, "add trainer.select=best"),
    "profiler": ("pytorch", "known are simple and advanced"),
    "limit_train_batches": (0, "would train nothing"),
    "check_val_every_n_epoch": (0, "a whole number of 1 or more"),
    "enable_progress_bar": ("no", "is not true or false"),
    "strategy": ("fsdp", "trainer=ddp"),
    "precision": ("16-mixed", "bf16"),
}


def given(name: str, value: Any) -> Any:
    """The config with one option of the Trainer."""
    composed = config(["trainer.accelerator=cpu"])
    with open_dict(composed.trainer):
        composed.trainer[name] = value
    return composed


def test_all_are_decided() -> None:
    """Prevents: an option of a later Lightning that ends in a traceback, or does nothing, after the teacher was
    trained.
    """
    names = set(inspect.signature(lightning.Trainer).parameters)
    assert names <= {*HONOURED, *AS_THE_RUN} and set(AS_THE_RUN) - {"val_check_interval"} <= set(REFUSED)


@pytest.mark.parametrize("name", HONOURED)
def test_honoured(name: str) -> None:
    """Prevents: an option that is taken out on its way to the Trainer."""
    options = parts.trainer_of(given(name, HONOURED[name]))
    assert name == "enable_progress_bar" or options[name] == HONOURED[name]


@pytest.mark.parametrize("name", AS_THE_RUN)
def test_what_the_run_does_anyway_may_be_said(name: str) -> None:
    """Prevents: a refusal of logger=false, which asks for nothing else than what is done."""
    assert parts.trainer_of(given(name, AS_THE_RUN[name])).get(name) is None


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_data_is_read(
    name: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prevents: a traceback of Lightning after data, tokens and the teacher; an option that is quietly set
    otherwise.
    """
    value, said = REFUSED[name]
    monkeypatch.setattr(text, "data_of", lambda config: pytest.fail("data was read"))
    plus = "" if name in ("strategy", "precision") else "+"
    shown = "null" if value is None else json.dumps(value).replace('"', "")
    with pytest.raises(UserError) as caught:
        finished(arguments, tmp_path / "a", "weighting=kd", f"{plus}trainer.{name}={shown}")
    assert f"trainer.{name}" in str(caught.value) and said in str(caught.value) and "\n" not in str(caught.value)


def test_display_changes_no_result(
    arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prevents: a progress bar in spite of enable_progress_bar=false, of the teacher or of a pass over the data, and in
    a log file; a profile that nobody finds; results that depend on what is shown.
    """
    finished([*arguments, f"cache_dir={tmp_path / 'file'}"], tmp_path / "d", "weighting=rwkd")
    assert "it/s" not in "".join(capfd.readouterr())
    monkeypatch.setattr(bars, "drawn", bars.shown)  # as on a terminal
    shown = finished(arguments, tmp_path / "a", "weighting=rwkd")
    assert "it/s" in "".join(capfd.readouterr())
    other = [*arguments[:-2], f"cache_dir={tmp_path / 'other'}", arguments[-1]]
    silent = [
        f"+trainer.{name}={value}"
        for name, value in (
            ("enable_progress_bar", "false"),
            ("profiler", "simple"),
            ("logger", "false"),
            ("enable_checkpointing", "true"),
            ("enable_model_summary", "false"),
            ("enable_autolog_hparams", "false"),
        )
    ]
    quiet = finished(other, tmp_path / "b", "weighting=rwkd", *silent)
    said = "".join(capfd.readouterr())
    assert "it/s" not in said and "%|" not in said and "test accuracy" in said
    assert quiet["student"] == shown["student"] and quiet["teacher"] == shown["teacher"]
    assert "run_training_epoch" in (tmp_path / "b/log/fit-profile.txt").read_text()
    finished(arguments, tmp_path / "c", "weighting=kd")
    assert "it/s" in "".join(capfd.readouterr())  # a later run of a sweep shows them again


# trainer.select=best

QUICK = ("weighting=ce", "optimizer.lr=3e-2")
"""Learns enough within a few steps for the scores to differ."""

NO_VALIDATION = {
    "max_steps within an epoch": ["trainer.max_steps=3"],
    "check_val_every_n_epoch": ["+trainer.check_val_every_n_epoch=5"],
    "max_time": ["+trainer.max_time=00:00:00:00"],
    "val_check_interval": [
        "+trainer.val_check_interval=7",
        "+trainer.check_val_every_n_epoch=null",
        "trainer.max_epochs=1",
    ],
}


def held_out_rows(folder: Path) -> list[dict[str, str]]:
    """The rows of the log that a validation has written."""
    with (folder / "log/metrics.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row.get("meta/accuracy")]


@pytest.mark.parametrize("options", NO_VALIDATION.values(), ids=NO_VALIDATION)
def test_best_of_one(options: list[str], arguments: list[str], tmp_path: Path) -> None:
    """Prevents: a traceback after the training because nothing was validated; a best student that is none."""
    result = finished(arguments, tmp_path / "best", *QUICK, "trainer.select=best", *options)
    steps = result["cost"]["steps"]
    assert result["checkpoint"] == f"best meta/accuracy, step {steps}"
    (row,) = held_out_rows(tmp_path / "best")
    assert int(row["step"]) == steps and float(row["meta/accuracy"]) == result["meta"]["accuracy"]
    if "max_time" in options[0]:  # ends in another step each time
        return
    last = [option for option in options if "val_check" not in option and "check_val" not in option]
    same = finished(arguments, tmp_path / "last", *QUICK, *last)
    assert same["student"] == result["student"] and same["meta"] == result["meta"]
    weights = [(tmp_path / name / "student/model.safetensors").read_bytes() for name in ("best", "last")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        (["trainer.max_epochs=3", "+trainer.check_val_every_n_epoch=2"], [8, 12]),
        (["trainer.max_steps=6"], [4, 6]),
        (["+trainer.val_check_interval=3", "trainer.max_epochs=1"], [3, 4]),
        (["+trainer.val_check_interval=0.5"], [2, 4, 6, 8]),
        (["+trainer.overfit_batches=2"], [2, 4]),
        (["+trainer.fast_dev_run=2"], [2]),
        (["+trainer.limit_train_batches=3"], [3, 6]),
        ([], [4, 8]),
    ],
    ids=lambda value: " ".join(value) if value and isinstance(value[0], str) else "",
)
def test_the_last_student_is_one_to_choose_from(
    options: list[str], steps: list[int], arguments: list[str], tmp_path: Path
) -> None:
    """Prevents: a best student of an early epoch, because the last steps were never validated; a validation done
    twice.
    """
    result = finished(arguments, tmp_path / "a", *QUICK, "trainer.select=best", *options)
    rows = held_out_rows(tmp_path / "a")
    assert [int(row["step"]) for row in rows] == steps
    best = max(rows, key=lambda row: (float(row["meta/accuracy"]), -int(row["step"])))
    assert result["checkpoint"].endswith(f"step {best['step']}")


def test_more_batches_between_validations_than_there_are(arguments: list[str], tmp_path: Path) -> None:
    """Prevents: a traceback of Lightning for a number that fits another size of batch."""
    with pytest.raises(
        UserError, match=r"trainer.val_check_interval=100 is more than the 4 batches of an epoch"
    ) as caught:
        finished(arguments, tmp_path / "a", "weighting=kd", "trainer.select=best", "+trainer.val_check_interval=100")
    assert "trainer.val_check_interval=4" in str(caught.value) and not (tmp_path / "cache/teacher").exists()


def test_a_score_that_is_not_defined_gives_way(tmp_path: Path) -> None:
    """Prevents: a first epoch of constant predictions, whose correlation is NaN, chosen for ever: nothing is above
    NaN.
    """
    saved: list[int] = []

    class Trainer:
        sanity_checking = False

        def __init__(self, step: int, value: float) -> None:
            self.global_step, self.callback_metrics = step, {"meta/pearson": torch.tensor(value)}

        def save_checkpoint(self, path: Path, weights_only: bool) -> None:
            saved.append(self.global_step)

    nan = float("nan")
    checkpoints = Checkpoints(tmp_path, Stop(), monitor="meta/pearson")
    for step, value in enumerate([nan, nan, -0.5, nan, 0.25, 0.0]):
        checkpoints.on_validation_end(Trainer(step, value), None)  # type: ignore[arg-type]
    assert saved == [0, 2, 4] and checkpoints.best == 0.25


def test_an_interrupted_validation_at_the_end_is_taken_again(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prevents: a run that is killed in its last validation and then has two rows of it, another student, or none."""

    def cut(*args: Any) -> None:
        raise RuntimeError("power cut")

    options = ["weighting=kd", "trainer.select=best", "trainer.max_steps=3"]
    whole = finished(arguments, tmp_path / "whole", *options)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        patch.setattr(Checkpoints, "on_validation_end", cut)
        finished(arguments, tmp_path / "cut", *options)
    again = finished(arguments, tmp_path / "cut", *options)
    assert again["checkpoint"] == whole["checkpoint"] and again["meta"] == whole["meta"]
    assert len(held_out_rows(tmp_path / "cut")) == 1


def test_matmul_is_the_student_s_alone(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents: a setting that reaches no kernel; a teacher, cached for runs of every setting, or the next run of a
    sweep, that is computed under this one's.
    """
    during: dict[str, str] = {}
    step = DistillationModule.training_step

    def watched(self: DistillationModule, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        during[str(self.weighting)] = torch.get_float32_matmul_precision()
        step(self, batch, batch_idx)

    monkeypatch.setattr(DistillationModule, "training_step", watched)
    finished([*arguments, f"cache_dir={tmp_path / 'cache'}"], tmp_path / "a", "weighting=mwn", "trainer.matmul=high")
    assert len(during) == 2 and during.pop("mwn(alpha=0.5, lr=0.001)") == "high"
    assert [*during.values(), torch.get_float32_matmul_precision()] == ["highest", "highest"]


def test_matmul_and_compile_as_before_name_the_same_run() -> None:
    """Prevents: an interrupted run of before these settings that begins again in another folder."""
    now, before = config(["trainer.matmul=highest", "trainer.compile=false"]), config([])
    with open_dict(before.trainer):
        del before.trainer.matmul, before.trainer.compile
    assert run_digest(now) == run_digest(before)
    for changed in ("trainer.matmul=high", "trainer.compile=true"):
        assert run_digest(config([changed])) != run_digest(before)


def test_compile_is_the_student_s_training_alone(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prevents: a setting that compiles nothing, or the teacher; a student that is written compiled; other results."""
    seen: set[tuple[str, bool]] = set()
    step = DistillationModule.training_step

    def watched(self: DistillationModule, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        seen.add((str(self.weighting).partition("(")[0], self.student._compiled_call_impl is not None))
        step(self, batch, batch_idx)

    monkeypatch.setattr(DistillationModule, "training_step", watched)
    monkeypatch.setattr(speed, "BACKEND", "aot_eager")  # which takes seconds, and not minutes
    arguments = [*arguments, f"cache_dir={tmp_path / 'cache'}", "weighting=rwkd", "meta.start=0"]
    fast = finished(arguments, tmp_path / "fast", "trainer.compile=true")["student"]
    assert seen == {("ce", False), ("rwkd", True)}
    plain = finished(arguments, tmp_path / "plain", "trainer.compile=false")["student"]
    assert fast.keys() == plain.keys() and len(fast) > 0
    first, second = (load_file(tmp_path / name / "student" / "model.safetensors") for name in ("fast", "plain"))
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=1e-4)


def test_compile_is_refused_before_data_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents: hours of a teacher's training before an engine, or a machine without a compiler, ends the run."""
    for engine, meta in (("jvp", "all"), ("unrolled", "last_block")):
        composed = config([f"meta/engine={engine}", f"meta={meta}", "trainer.compile=true"])
        with pytest.raises(UserError, match=rf"trainer.compile=true with meta/engine={engine}: only finite"):
            parts.check_settings(composed, parts.weighting_of(composed))

    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(speed, "BACKEND", broken)
    composed = config(["trainer.compile=true", "trainer.accelerator=cpu"])
    with pytest.raises(UserError, match=r"does not work on this machine's cpu \(.*no C\+\+ compiler"):
        parts.check_settings(composed, parts.weighting_of(composed))
