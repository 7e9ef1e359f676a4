"""The staged run, end to end on tiny data, called as a library and through ``train.py``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from rwkd_lightning.report import rows as scored
from rwkd_lightning.run.build import weighting_of
from rwkd_lightning.run.runner import run
from rwkd_lightning.systems.text.data import corruption as corruptions
from rwkd_lightning.systems.text.data import datamodule
from rwkd_lightning.utils.errors import UserError
from tests.forked import Command, train
from tests.shipped_methods import METHODS

ROOT = Path(__file__).parents[2]


def config(overrides: list[str]) -> DictConfig:
    """The composed config, with the one value that only a Hydra run knows."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = compose("config", overrides)
    chosen = next((o.split("=")[1] for o in overrides if o.startswith("weighting=")), "rwkd")
    composed.weighting_name = chosen
    return composed


def finished(arguments: list[str], folder: Path, *more: str) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    return run(config([*arguments, *more]), folder)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_leaves_a_whole_run_behind(method: str, warm: list[str], tmp_path: Path) -> None:
    """Prevents: a method that trains, but whose results cannot be loaded or read."""
    import pyarrow.parquet
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = tmp_path / method
    noise = ["data.label_noise=0.4", "data.teacher_noise=0.4"]
    result = finished(warm, folder, f"weighting={method}", *noise)
    written = json.loads((folder / "metrics.json").read_text())
    assert written == result
    assert (written["task"], written["weighting"], written["seed"], written["metric"]) == (
        "tweets",
        method,
        0,
        "accuracy",
    )
    for who in ("student", "teacher"):
        assert set(written[who]) == {"validation", "test"}
        assert 0 <= written[who]["test"]["accuracy"] <= 1
    for metric, score in written["student"]["test"].items():  # again, from the rows that the run leaves
        assert scored.read(folder, "test", metric, score) is not None
    assert written["cost"]["steps"] == 2 * 4  # 64 rows, batches of 16
    composed = config([f"weighting={method}"])
    bilevel, terms = weighting_of(composed).needs_influence, list(composed.terms)
    assert written["cost"]["meta_steps"] == (6 if bilevel else 0)  # none in the first fifth

    assert "${" not in (folder / "config.yaml").read_text()

    table = pyarrow.parquet.read_table(folder / "weights.parquet").to_pydict()
    names = {"idx", "split", "label", "label_flipped", "teacher_corrupted", "loss_teacher_ce", "visits"}
    assert set(table) == names | {f"{kind}_{t}" for kind in ("w", "loss", "influence") for t in terms}
    assert len(set(table["idx"])) == 64 and table["visits"] == [2] * 64
    assert {value is None for t in terms for value in table[f"influence_{t}"]} == {not bilevel}
    assert sum(table["label_flipped"]) == sum(table["teacher_corrupted"]) == round(0.4 * 64)
    if method not in ("oracle", "mwn", "l2rw", "wls", "uncertainty", "amal"):  # whose weights are shares
        total = 2.0 if method in ("dwa", "gradnorm") else 1.0
        assert torch.tensor([table[f"w_{t}"] for t in terms]).sum(0).allclose(torch.full((64,), total))

    model = AutoModelForSequenceClassification.from_pretrained(folder / "student")
    tokenizer = AutoTokenizer.from_pretrained(folder / "student")
    assert model.config.id2label == {0: "negative", 1: "neutral", 2: "positive"}
    assert model.config.num_hidden_layers == 1
    with torch.no_grad():
        assert model(**tokenizer("good happy", return_tensors="pt")).logits.shape == (1, 3)


def test_options_of_the_meta_learner_run(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents: options that can be set and reach nothing, and a meta split whose noise spoils the teacher's logits."""
    options = [
        "weighting=rwkd",
        "weighting.gate._target_=rwkd_lightning.weighting.gates.Reject",
        "weighting.gate.bound=3",
        "weighting.smoothing=0.5",
        "meta_features=history",
        "data.meta_noise=0.4",
    ]
    shares, flip = [], corruptions.flip_meta_labels
    monkeypatch.setattr(
        datamodule,
        "flip_meta_labels",
        lambda labels, share, *rest: (shares.append((len(labels), share)), flip(labels, share, *rest))[1],
    )
    result = finished(arguments, tmp_path / "a", *options)
    assert result["cost"]["meta_steps"] == 6 and set(shares) == {
        (24, 0.0),
        (24, 0.4),
    }  # the teacher's logits, the student
    plain = finished(arguments, tmp_path / "b", "weighting=rwkd")
    assert plain["teacher"] == result["teacher"] and len(list((tmp_path / "cache/logits").glob("*/key.json"))) == 1
    a, b = (weights_of(tmp_path / name) for name in "ab")
    assert a.sum(0).min() > 0 and (a.sum(0) - 1).abs().max() > 1e-3 and torch.allclose(b.sum(0), torch.ones(64))


def weights_of(folder: Path) -> torch.Tensor:
    """``(K, N)``."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(folder / "weights.parquet").to_pydict()
    return torch.tensor([table["w_ce"], table["w_kd"]])


def test_second_run_reuses_teacher_and_logits_and_a_finished_one_trains_nothing(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prevents: hours of fine-tuning again for each weighting method, and results overwritten by a repeated command."""
    first = finished(arguments, tmp_path / "a", "weighting=kd")
    second = finished(arguments, tmp_path / "b", "weighting=ce")
    assert first["cost"]["teacher_seconds"] is not None and second["cost"]["teacher_seconds"] is None
    assert first["teacher"] == second["teacher"]
    before = (tmp_path / "a/metrics.json").read_bytes()
    finished(arguments, tmp_path / "a", "weighting=kd")
    assert "force=true" in capsys.readouterr().out
    assert (tmp_path / "a/metrics.json").read_bytes() == before
    again = finished(arguments, tmp_path / "a", "weighting=kd", "force=true")
    assert again["student"] == first["student"]  # same seed, same numbers
    assert (tmp_path / "a/metrics.json").read_bytes() != before  # but a run of its own


def test_probes_leave_teacher_and_held_out_rows_alone(arguments: list[str], tmp_path: Path) -> None:
    """Prevents: a corrupted evaluation that makes every method look alike, or a second teacher for the noisy run."""
    clean = finished(arguments, tmp_path / "a", "weighting=kd")
    noisy = finished(arguments, tmp_path / "b", "weighting=kd", "data.label_noise=0.4", "data.teacher_noise=0.4")
    assert noisy["teacher"] == clean["teacher"]
    assert noisy["cost"]["teacher_seconds"] is None
    assert set(noisy["corruption"]) == {"teacher_corrupted", "label_flipped"} and "corruption" not in clean


def test_best_checkpoint_is_recorded(arguments: list[str], tmp_path: Path) -> None:
    """Prevents: scores of a chosen epoch reported as those of the last."""
    result = finished(arguments, tmp_path / "a", "weighting=kd", "trainer.select=best")
    assert result["checkpoint"].startswith("best meta/accuracy, step ")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("temperature=0", "temperature is 0"),
        ("weighting.alpha=1.5", "weighting.alpha is 1.5"),
        ("data.label_noise=1.0", "data.label_noise"),
        ("trainer.precision=16-mixed", "bf16-mixed"),
        ("trainer.strategy=fsdp", "use trainer=ddp trainer.devices=2"),
        ("trainer.strategy=ddp_spawn", "use trainer=ddp trainer.devices=2"),
        ("trainer.select=frist", "'frist'"),
        ("terms=[squared_error,kd]", "'squared_error' is for a regression"),
        ("terms=[ce,kb]", "'kb' is not known"),
        ("pair.student.layers=[7]", "from 0 to 1"),
        ("pair.student.path=no/such-model", "no/such-model"),
        ("data.batch_size=0", "data.batch_size is 0"),
        ("optimizer.lr=0", "optimizer.lr is 0"),
        ("scheduler.warmup=1", "scheduler.warmup is 1"),
    ],
)
def test_bad_values_are_named(override: str, said: str, arguments: list[str], tmp_path: Path) -> None:
    """Prevents: a traceback from the depths, or hours of work before the mistake shows."""
    with pytest.raises(UserError) as caught:
        finished(arguments, tmp_path / "a", "weighting=kd", override)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "cache/teacher").exists()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["weighting=rwkd_online", "meta.every=2"], "meta.every=1"),
        (["weighting=l2rw", "meta.every=2"], "meta.every=1"),
        (["weighting=rwkd", "meta=all", "trainer.accumulate=2"], "use meta=bank"),
        (["weighting=kd", "trainer.accumulate=0"], "trainer.accumulate is 0"),
        (["weighting=oracle"], "data.label_noise"),
        (["weighting=rwkd", "meta.loss=hardest"], "hard, soft, mix"),
        (["weighting=rwkd", "meta.lookahead_lr=-1"], "meta.lookahead_lr is -1"),
    ],
)
def test_combinations_that_mean_nothing_are_refused(
    overrides: list[str], said: str, arguments: list[str], tmp_path: Path
) -> None:
    """Prevents: a run that quietly does something else than it was asked to, and a teacher trained for one that cannot
    be.
    """
    with pytest.raises(UserError) as caught:
        finished(arguments, tmp_path / "a", *overrides)
    assert said in str(caught.value)
    assert not (tmp_path / "cache/teacher").exists()


def test_cache_of_another_teacher_is_refused(arguments: list[str], tmp_path: Path) -> None:
    """Prevents: distilling from logits that another teacher gave."""
    finished(arguments, tmp_path / "a", "weighting=kd")
    (kept,) = (tmp_path / "cache/logits").glob("*/key.json")
    content = json.loads(kept.read_text())
    content["key"]["teacher"] = "0" * 64
    kept.write_text(json.dumps(content))
    with pytest.raises(UserError, match="was built from another teacher"):
        finished(arguments, tmp_path / "b", "weighting=ce")


def test_altered_cache_is_refused(arguments: list[str], tmp_path: Path) -> None:
    """Prevents: one flipped byte in the teacher's weights going unnoticed."""
    finished(arguments, tmp_path / "a", "weighting=kd")
    (weights,) = (tmp_path / "cache/teacher").glob("*/model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors is missing or was altered"):
        finished(arguments, tmp_path / "b", "weighting=ce")


def test_multirun_from_the_command_line(arguments: list[str], tmp_path: Path) -> None:
    """Prevents: jobs of a sweep that write into one folder, or a sweep and a single run with different names."""
    done = subprocess.run(
        [sys.executable, "train.py", "-m", "weighting=ce,kd", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    folders = sorted(p.parent.name for p in (tmp_path / "runs/tweets").glob("*/metrics.json"))
    assert [name.rsplit("-", 1)[0] for name in folders] == ["ce-seed0", "kd-seed0"]
    again = train("weighting=kd", *arguments)
    assert again.returncode == 0 and "already finished" in again.stdout


@pytest.mark.parametrize(
    ("arguments_given", "said"),
    [
        (["task=mrcp"], "mrpc"),
        (["weighting=rwdk"], "rwkd_online"),
        (["temperature=-1"], "temperature is -1"),
        (["task=mrpc", "data.path=/no/such/dir"], "/no/such/dir"),
        (["task=mrpc"], "data.path=DIR"),
    ],
)
def test_command_line_mistakes_get_one_line(arguments_given: list[str], said: str, tmp_path: Path) -> None:
    """Prevents: tracebacks for typing mistakes, and an exit status of 0 that a script takes for success."""
    done = train(*arguments_given, f"runs_dir={tmp_path}")
    assert done.returncode != 0
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def small_files() -> None:
    """Let this process write files of up to 40 KiB only."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40 * 1024, 40 * 1024))


def test_full_disk(arguments: list[str], tmp_path: Path) -> None:
    """Prevents: a traceback from a checkpoint's writer, and half a result taken for a whole one."""
    finished(arguments, tmp_path / "a", "weighting=kd")  # so that only the run's own folder is left to be written
    done = Command("weighting=ce", *arguments, merged=False, prepare=small_files).completed()
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "runs_dir=" in done.stderr and "cannot be written" in done.stderr and "on another disk" in done.stderr
    assert not list((tmp_path / "runs").rglob("metrics.json")) and not list((tmp_path / "runs").rglob("*.safetensors"))


def test_an_interrupted_run_goes_on_and_ends_as_if_nothing_had_happened(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prevents: a resumed run with other dropout masks, a fresh meta-learner, a restarted schedule or an empty bank."""
    import pyarrow.parquet

    from rwkd_lightning.training.module import DistillationModule

    whole = finished(arguments, tmp_path / "whole", "data.teacher_noise=0.4")
    original = DistillationModule.record

    def failing(self: DistillationModule, *args: Any) -> None:
        original(self, *args)
        if self.meta is not None and self.global_step == 6:  # in the second epoch of the student
            raise RuntimeError("power cut")

    monkeypatch.setattr(DistillationModule, "record", failing)
    with pytest.raises(RuntimeError, match="power cut"):
        finished(arguments, tmp_path / "cut", "data.teacher_noise=0.4")
    assert not (tmp_path / "cut/metrics.json").exists()
    monkeypatch.setattr(DistillationModule, "record", original)
    resumed = finished(arguments, tmp_path / "cut", "data.teacher_noise=0.4")
    assert resumed["cost"]["steps"] == whole["cost"]["steps"] and resumed["student"] == whole["student"]
    tables = [pyarrow.parquet.read_table(tmp_path / name / "weights.parquet") for name in ("whole", "cut")]
    assert tables[0].equals(tables[1])
    weights = [(tmp_path / name / "student/model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]


def test_where_the_time_went(warm: list[str], tmp_path: Path) -> None:
    """Prevents: stages whose seconds are counted twice, or not at all."""
    cost = finished(warm, tmp_path / "run", "weighting=kd", "trainer.max_epochs=1")["cost"]
    assert list(cost["stage_seconds"]) == ["data", "checks", "teacher", "inputs", "training", "scores", "files"]
    assert sum(cost["stage_seconds"].values()) == pytest.approx(cost["total_seconds"])
    assert cost["train_seconds"] <= cost["stage_seconds"]["training"]
    assert "where the time went: data " in (tmp_path / "run/report.html").read_text()
