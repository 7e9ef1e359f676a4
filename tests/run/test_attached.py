"""What a config attaches to the student's training: optimizer, schedule, logger and callbacks, each by a
``_target_``.
"""

from __future__ import annotations

import csv
import inspect
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch.loggers
import numpy as np
import pyarrow.parquet
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from torch import nn

from rwkd_lightning.cli import schema
from rwkd_lightning.run import build, loggers
from rwkd_lightning.run.callbacks import check_monitors
from rwkd_lightning.run.identity import run_digest
from rwkd_lightning.utils.errors import UserError
from tests.run.test_pipeline_run import config, finished
from tests.run.test_resume import check_same, power_cut
from tests.run.tiny import overrides

HERE = "tests.run.test_attached"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all these runs: one teacher."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def arguments(tweets: Path, backbone: Path, tmp_path: Path, cache: Path) -> list[str]:
    """A run that logs each step, with the shared cache."""
    return [*overrides(tweets, backbone, tmp_path), f"cache_dir={cache}", "weighting=kd", "trainer.log_every_n_steps=1"]


# Optimizer and schedule


@pytest.mark.parametrize(
    ("chosen", "reference"),
    [
        (
            [],
            lambda p: torch.optim.AdamW(
                [{"params": p[:1], "weight_decay": 0.01}, {"params": p[1:], "weight_decay": 0.0}], lr=1e-4
            ),
        ),
        (["optimizer=adam"], lambda p: torch.optim.Adam(p, lr=2e-3, betas=(0.99, 0.99))),
        (["task=topics"], lambda p: torch.optim.Adam(p, lr=2e-3, betas=(0.99, 0.99))),
        (
            ["task=topics", "optimizer=adamw", "optimizer.weight_decay=0"],
            lambda p: torch.optim.AdamW(p, lr=1e-4, weight_decay=0.0),
        ),
        (
            ["optimizer._target_=torch.optim.SGD", "+optimizer.momentum=0.9"],
            lambda p: torch.optim.SGD(p, lr=1e-4, weight_decay=0.01, momentum=0.9),
        ),
        (
            ["optimizer._target_=torch.optim.NAdam", "optimizer.lr=0.1", "optimizer.weight_decay=0"],
            lambda p: torch.optim.NAdam(p, lr=0.1),
        ),
        ([f"optimizer._target_={HERE}.of_a_module"], lambda p: torch.optim.SGD(p[:1], lr=1e-4)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_optimizer(chosen: list[str], reference: Any) -> None:
    """Prevents: a key that is not handed on, another default than the config says, a class of torch's given a
    module.
    """
    ours, other = nn.Linear(3, 2).double(), nn.Linear(3, 2).double()
    for module in (ours, other):
        nn.init.constant_(module.weight, 0.5), nn.init.zeros_(module.bias)
    composed = config(chosen)
    schema.check(composed)
    build.trainer_of(composed)
    steps = build.optimizer_of(composed)(ours), reference(list(other.parameters()))
    for scale in (1.0, -3.0, 0.5):
        for module, optimizer in zip((ours, other), steps, strict=True):
            for parameter in module.parameters():
                parameter.grad = scale * torch.arange(1.0, parameter.numel() + 1).double().view_as(parameter)
            optimizer.step()
    for one, another in zip(ours.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, another, rtol=1e-10, atol=0)
    assert float((ours.weight.detach() - 0.5).abs().min()) > 0


def of_a_module(module: Any, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """An optimizer of one's own, which looks into the student."""
    return torch.optim.SGD([module.weight], lr=lr)


def rates(chosen: list[str], steps: int = 10) -> list[float]:
    """The rate of each step, as a share of the optimizer's."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = build.schedule_of(config(chosen))(optimizer, steps)
    found = []
    for _ in range(steps):
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step(), schedule.step()
    return found


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (["scheduler.warmup=0"], [1 - s / 10 for s in range(10)]),
        (["scheduler.warmup=0.2"], [1 / 3, 2 / 3, *((10 - s) / 8 for s in range(2, 10))]),
        (["scheduler=cosine", "scheduler.warmup=0"], [0.5 * (1 + math.cos(math.pi * s / 10)) for s in range(10)]),
        (
            ["scheduler=cosine", "scheduler.warmup=0.2"],
            [1 / 3, 2 / 3, *(0.5 * (1 + math.cos(math.pi * (s - 2) / 8)) for s in range(2, 10))],
        ),
        (["scheduler=constant"], [1.0] * 10),
        (["task=topics"], [1.0] * 10),
        (["scheduler=constant", "scheduler.warmup=0.1"], [0.5, *[1.0] * 9]),
        (
            ["scheduler._target_=torch.optim.lr_scheduler.ExponentialLR", "~scheduler.warmup", "+scheduler.gamma=0.5"],
            [0.5**s for s in range(10)],
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value[0], str) else "",
)
def test_schedule(chosen: list[str], expected: list[float]) -> None:
    """Prevents: a warm-up of another share, a schedule that ends before the training or beyond it."""
    assert rates(chosen) == pytest.approx(expected)


def test_the_length_is_given_to_what_takes_it() -> None:
    """Prevents: a schedule of torch's that needs the number of steps, which only the run knows."""
    chosen = [
        "scheduler._target_=torch.optim.lr_scheduler.OneCycleLR",
        "~scheduler.warmup",
        "+scheduler.max_lr=1.0",
        "+scheduler.cycle_momentum=false",
    ]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=12, cycle_momentum=False)
    expected = []
    for _ in range(12):
        expected.append(float(reference.get_last_lr()[0]))
        optimizer.step()
        if len(expected) < 12:
            reference.step()
    assert rates(chosen, 12) == pytest.approx(expected)


# Refused before anything is read


class Loaded(Callback):
    """A callback whose state no checkpoint can be read with."""

    def state_dict(self) -> dict[str, Any]:
        return {"path": Path("x")}


CYCLE = [
    "+callbacks.more._target_=lightning.pytorch.callbacks.EarlyStopping",
    "+callbacks.more.monitor=null",
    "+callbacks.more.mode=max",
]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["optimizer._target_=torch.optim.SGDD"], "optimizer: torch.optim.SGDD cannot be made of these keys"),
        (["optimizer._target_=torch.optim.SGD", "+optimizer.momentum=-1"], "(Invalid momentum value: -1)"),
        (["optimizer._target_=torch.optim.LBFGS", "~optimizer.weight_decay"], "cannot be stepped by itself"),
        (["optimizer._target_=torch.optim.SparseAdam", "~optimizer.weight_decay"], "cannot be stepped by itself"),
        (["optimizer._target_=builtins.dict"], "optimizer._target_=builtins.dict makes a dict, and no Optimizer"),
        (["optimizer=adam", "optimizer._target_=torch.optim.SGD"], "unexpected keyword argument 'betas'"),
        (["optimizer._partial_=false"], "optimizer._partial_ is false; give true"),
        (
            [f"optimizer._target_={HERE}.of_a_module", "~optimizer.weight_decay"],
            "missing a required argument: 'weight_decay'",
        ),
        (
            ["scheduler._target_=torch.optim.lr_scheduler.ReduceLROnPlateau", "~scheduler.warmup"],
            "once per student step",
        ),
        (["scheduler._target_=torch.optim.lr_scheduler.ConstantLR"], "unexpected keyword argument 'warmup'"),
        (["scheduler._target_=torch.optim.SGD"], "scheduler: torch.optim.SGD cannot be made of these keys"),
        (["scheduler.warmup=-0.1"], "scheduler.warmup is -0.1; give a number from 0"),
        (["~scheduler"], "scheduler is missing"),
        (["+logger.x=1"], "logger has no _target_"),
        (["+logger._target_=builtins.dict"], "logger._target_=builtins.dict makes a dict, and no Logger"),
        ([f"+logger._target_={HERE}.Recorder", "+logger.foo=3"], "unexpected keyword argument 'foo'"),
        (["callbacks=lr_monitor"], "callbacks.lr_monitor: a LearningRateMonitor writes to a logger"),
        (["+callbacks.mine=3"], "callbacks.mine is 3; give a class"),
        (["+callbacks.mine.x=3"], "callbacks.mine has no _target_"),
        (["+callbacks.mine._target_=torch.nn.Identity"], "torch.nn.Identity makes a Identity, and no Callback"),
        (["+callbacks.mine._target_=lightning.pytorch.callbacks.ModelCheckpoint"], "trainer.select=best"),
        (["+callbacks.mine._target_=lightning.pytorch.callbacks.TQDMProgressBar"], "the run shows a bar of its own"),
        (
            [f"+callbacks.mine._target_={HERE}.Loaded"],
            "callbacks.mine: the state_dict of Loaded holds more than numbers",
        ),
        (["callbacks=early_stopping", *CYCLE], "Found more than one stateful callback"),
        (
            ["callbacks=early_stopping", "callbacks.early_stopping.mode=up"],
            "callbacks.early_stopping.mode is 'up'; give one of min",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refused(typed: list[str], said: str) -> None:
    """Prevents: a traceback after the teacher's hours, for what one look at the config could have told."""
    with pytest.raises(UserError) as caught:
        composed = config(typed)
        schema.check(composed)
        build.trainer_of(composed)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_monitored_is_logged() -> None:
    """Prevents: Lightning's traceback at the end of the student's first epoch, for a metric of another name."""
    for monitor in ("null", "meta/macro_f1", "loss", "loss/kd", "weight_spread/ce"):
        composed = config(["callbacks=early_stopping", f"callbacks.early_stopping.monitor={monitor}"])
        check_monitors(composed, ["accuracy", "macro_f1"])
    composed = config(["callbacks=early_stopping", "callbacks.early_stopping.monitor=acuracy"])
    with pytest.raises(UserError, match=r"monitors 'acuracy', which is not logged; did you mean meta/accuracy\?"):
        check_monitors(composed, ["accuracy"])
    composed = config(
        ["callbacks=early_stopping", "callbacks.early_stopping.monitor=mine", "+callbacks.early_stopping.strict=false"]
    )
    check_monitors(composed, ["accuracy"])  # a callback of one's own may log it


# Loggers


class Recorder(Logger):
    """Lightning's interface, as W&B's and MLflow's loggers fill it: a version from the first look at the experiment
    on.
    """

    def __init__(
        self,
        save_dir: str = "",
        version: str | None = None,
        project: str = "",
        offline: bool = False,
        experiment_name: str = "",
    ) -> None:
        super().__init__()
        self.folder, self._version, self.finished = Path(save_dir), version, 0

    @property
    def name(self) -> str:
        return "recorder"

    @property
    def version(self) -> str | None:
        return self._version

    @property
    def experiment(self) -> Any:
        self._version = self._version or f"v{len(list(self.folder.glob('*.jsonl')))}"
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def finish(self) -> None:
        self.write({"finished": True})

    def write(self, row: dict[str, Any]) -> None:
        with (self.experiment.folder / f"{self._version}.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        self.write({"step": step, **{name: float(value) for name, value in metrics.items()}})

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.write({"settings": params["optimizer"]["lr"]})


def rows(folder: Path) -> list[dict[str, str]]:
    """The rows of ``metrics.csv``."""
    with (folder / "log/metrics.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]


def test_logger_gets_what_is_logged_and_goes_on(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prevents: metrics that go nowhere, or outside of the run's folder; a resumed run under a new name; a record left
    open for the next job of a sweep; another student because of a logger.
    """
    monkeypatch.chdir(tmp_path)
    plain, logged = tmp_path / "plain", tmp_path / "logged"
    finished(arguments, plain, "trainer.select=best")
    before = {path.name for path in tmp_path.iterdir()}
    options = [
        "trainer.select=best",
        f"+logger._target_={HERE}.Recorder",
        "+logger.save_dir=log/mine",
        "callbacks=lr_monitor",
    ]
    with power_cut(3, True):
        finished(arguments, logged, *options, "checkpoint.steps=3")
    finished(arguments, logged, *options)
    (record,) = (logged / "log/mine").iterdir()
    said = [json.loads(line) for line in record.read_text().splitlines()]
    assert [row for row in said if "settings" in row] == [{"settings": 3e-3}] == said[:1]
    assert said[-1] == {"finished": True} and said.count(said[-1]) == 2  # of the interrupted process, too
    losses = {row["step"]: row["loss"] for row in said if "loss" in row}
    expected = {int(row["step"]) - 1: float(row["loss"]) for row in rows(plain) if "loss" in row}
    del expected[2]  # Lightning hands a step over after its checkpoint
    assert losses == expected and len(losses) == 7
    assert sum("meta/accuracy" in row for row in said) == 2
    assert next(row["lr-AdamW/pg1"] for row in said if "lr-AdamW/pg1" in row) == pytest.approx(1.5e-3)
    assert (plain / "student/model.safetensors").read_bytes() == (logged / "student/model.safetensors").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {*before, "logged"}


def test_a_record_that_cannot_be_opened(tmp_path: Path) -> None:
    """Prevents: a traceback of a logger's package, a server's or the disk's, at the student's first step."""
    (tmp_path / "log").write_text("a file")
    composed = config([f"+logger._target_={HERE}.Recorder", "+logger.save_dir=log/mine"])
    logger = loggers.logger_of(composed, tmp_path)
    assert logger is not None
    with pytest.raises(UserError, match=f"^logger: {HERE}.Recorder cannot begin .*leave logger= out$"):
        loggers.begin(logger, composed, tmp_path)


@pytest.mark.parametrize(
    ("option", "where", "name", "given"),
    [
        ("wandb", lightning.pytorch.loggers, "WandbLogger", {"project": "rwkd_lightning", "offline": True}),
        ("mlflow", loggers, "MLFlowLogger", {"experiment_name": "rwkd_lightning"}),
    ],
    ids=["wandb", "mlflow"],
)
def test_loggers_of_other_packages(
    option: str, where: Any, name: str, given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prevents: a key that Lightning's class does not take, a record outside of the run's folder, a second one on
    resuming.
    """
    real = inspect.signature(getattr(lightning.pytorch.loggers, name))
    made: list[dict[str, Any]] = []

    def stand_in(**keys: Any) -> Recorder:
        real.bind(**keys)
        made.append(keys)
        return Recorder(keys["save_dir"], keys.get("version", keys.get("run_id")))

    stand_in.__signature__ = real  # type: ignore[attr-defined]
    monkeypatch.setattr(where, name, stand_in)
    composed = config([f"logger={option}"])
    first = loggers.logger_of(composed, tmp_path)
    assert first is not None and made == [{"save_dir": made[0]["save_dir"], **given}]
    assert tmp_path / "log" in (Path(made[0]["save_dir"]), Path(made[0]["save_dir"]).parent)
    loggers.begin(first, composed, tmp_path)
    again = loggers.logger_of(composed, tmp_path)
    assert again is not None and again.version == first.version == "v0"


def test_mlflow_is_given_names_that_its_folder_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents: MLflow's error that ``loss`` is a directory, at the first step of the student; its refusal of any
    folder.
    """
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    said: list[Any] = []
    monkeypatch.setattr(lightning.pytorch.loggers.MLFlowLogger, "__init__", lambda self, **keys: said.append(keys))
    monkeypatch.setattr(lightning.pytorch.loggers.MLFlowLogger, "log_metrics", lambda self, *given: said.append(given))
    loggers.MLFlowLogger(save_dir="x").log_metrics({"loss": 1.0, "loss/kd": 2.0}, 3)
    assert said == [{"run_id": None, "save_dir": "x"}, ({"loss": 1.0, "loss.kd": 2.0}, 3)]
    assert os.environ["MLFLOW_ALLOW_FILE_STORE"] == "true"


@pytest.mark.parametrize(
    ("option", "module", "flags"),
    [
        ("tensorboard", "lightning.fabric.loggers.tensorboard", ["_TENSORBOARD_AVAILABLE", "_TENSORBOARDX_AVAILABLE"]),
        ("wandb", "lightning.pytorch.loggers.wandb", ["_WANDB_AVAILABLE"]),
        ("mlflow", "lightning.pytorch.loggers.mlflow", ["_MLFLOW_AVAILABLE"]),
    ],
)
def test_a_missing_package(option: str, module: str, flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents: a traceback after the teacher, where a package has only to be installed."""
    for flag in flags:
        monkeypatch.setattr(f"{module}.{flag}", False)
    with pytest.raises(UserError, match=f"^logger: .*needs a package that is not installed; pip install {option}$"):
        build.trainer_of(config([f"logger={option}"]))


def test_no_package_is_imported_before_it_is_chosen() -> None:
    """Prevents: seconds of every start for a logger that nobody asked for."""
    code = (
        "import sys, rwkd_lightning.run.runner, rwkd_lightning.systems.text.system; "
        "sys.exit(str({'tensorboard', 'wandb', 'mlflow'} & set(sys.modules)) if {'tensorboard', 'wandb', 'mlflow'} "
        "& set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr


def test_tensorboard(arguments: list[str], tmp_path: Path) -> None:
    """Prevents: an empty directory for TensorBoard, or a second version of the run after an interruption."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run"
    with power_cut(3, True):
        finished(arguments, folder, "logger=tensorboard", "checkpoint.steps=3", "trainer.max_steps=6")
    finished(arguments, folder, "logger=tensorboard", "trainer.max_steps=6")
    assert [path.name for path in (folder / "log/tensorboard").iterdir()] == ["version_0"]
    events = EventAccumulator(str(folder / "log/tensorboard/version_0"), {"histograms": 0, "scalars": 0})
    events.Reload()
    shown = {event.step: event.value for event in events.Scalars("loss")}
    expected = {int(row["step"]) - 1: pytest.approx(float(row["loss"]), rel=1e-6) for row in rows(folder)}
    del expected[2]  # Lightning hands a step over after its checkpoint
    assert shown == expected and len(shown) == 5
    of_epochs = sorted((folder / "epochs").glob("*.parquet"))
    steps = [event.step for event in events.Histograms("weights/ce")]
    assert len(of_epochs) == 2 and steps == [4, 6]
    last = pyarrow.parquet.read_table(of_epochs[-1])["w_ce"].to_numpy()
    last = last[np.isfinite(last)]
    drawn = events.Histograms("weights/ce")[-1].histogram_value
    assert (drawn.num, drawn.min, drawn.max) == (len(last), pytest.approx(last.min()), pytest.approx(last.max()))
    assert drawn.sum == pytest.approx(last.sum(), rel=1e-5)
    quantiles = [events.Scalars(f"weight_p{q}/ce")[-1].value for q in (10, 50, 90)]
    assert quantiles == pytest.approx(np.percentile(last, [10, 50, 90]).tolist(), rel=1e-5)


# Callbacks

COUNTED: list[int] = []


class Counter(Callback):
    """Counts batches, over interruptions."""

    def __init__(self) -> None:
        self.batches = 0

    def on_train_batch_end(self, *args: Any) -> None:
        self.batches += 1

    def on_train_end(self, *args: Any) -> None:
        COUNTED.append(self.batches)

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.batches = state_dict["batches"]


def test_own_callback_sees_the_student_alone_and_keeps_its_state(
    arguments: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Prevents: a callback that watches the teacher too, or begins again after an interruption; a summary that nobody
    sees.
    """
    COUNTED.clear()
    options = [f"+callbacks.mine._target_={HERE}.Counter", "pair.teacher.epochs=4"]  # a teacher that is trained here
    with power_cut(3, True):
        finished(arguments, tmp_path / "cut", *options, "checkpoint.steps=3")
    with caplog.at_level("INFO", logger="rwkd_lightning"):
        finished(arguments, tmp_path / "cut", *options, "callbacks=model_summary")
    assert COUNTED == [8]
    assert "Total params" in caplog.text and "student" in caplog.text


STOPS = [
    "callbacks=early_stopping",
    "callbacks.early_stopping.patience=1",
    "callbacks.early_stopping.min_delta=1",
    "trainer.max_epochs=4",
    "optimizer=adam",
    "scheduler=cosine",
]
"""No score rises by 1: it stops after the second validation."""


@pytest.mark.parametrize("select", ["last", "best"])
def test_early_stopping_resumes_exactly(
    select: str, arguments: list[str], tmp_path: Path, last: dict[str, dict[str, Any]]
) -> None:
    """Prevents: no validation to stop by, patience that begins again, a training that ended early and goes on because
    the process was killed after it.
    """
    options = [*STOPS, f"trainer.select={select}"]
    whole = finished(arguments, tmp_path / "whole", *options)
    assert whole["cost"]["steps"] == 8
    assert [row["step"] for row in rows(tmp_path / "whole") if "meta/accuracy" in row] == ["4", "8"]
    assert (
        whole["checkpoint"] == "last"
        if select == "last"
        else whole["checkpoint"].startswith("best meta/accuracy, step")
    )
    for step in (6, 8):
        with power_cut(step, True):
            finished(arguments, tmp_path / f"cut{step}", *options, "checkpoint.steps=1")
        assert finished(arguments, tmp_path / f"cut{step}", *options)["cost"]["steps"] == 8
        check_same(tmp_path / "whole", tmp_path / f"cut{step}", last)


def test_a_patient_callback_changes_nothing(arguments: list[str], tmp_path: Path) -> None:
    """Prevents: other dropout masks or another order of the rows because the meta split is scored on the way."""
    finished(arguments, tmp_path / "plain")
    finished(arguments, tmp_path / "patient", "callbacks=early_stopping")
    students = [(tmp_path / name / "student/model.safetensors").read_bytes() for name in ("plain", "patient")]
    assert students[0] == students[1]


def test_identity() -> None:
    """Prevents: a run that is trained again for a table that is shown, or one that is taken for a shorter training."""

    def of(*chosen: str) -> str:
        return run_digest(config(list(chosen)))

    assert of() == of("callbacks=model_summary") == of("logger=tensorboard", "callbacks=[lr_monitor,model_summary]")
    others = [
        of("callbacks=early_stopping"),
        of("scheduler=cosine"),
        of("optimizer=adam"),
        of("optimizer._target_=torch.optim.SGD"),
        of(f"+callbacks.model_summary._target_={HERE}.Counter"),
    ]
    assert len({of(), *others}) == 6
