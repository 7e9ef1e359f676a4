"""Signals, torn checkpoints, two commands at once, full disks, workers that die: nothing is lost, and it is said."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rwkd_lightning.run.checkpoints import AtomicCheckpointIO, written
from rwkd_lightning.run.identity import run_digest
from rwkd_lightning.run.signals import Stop
from rwkd_lightning.systems.text.data.collate import EncodedSplit
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.utils.errors import UserError
from tests.forked import Command
from tests.run.test_pipeline_run import config, finished
from tests.run.test_resume import check_same, power_cut

LONG = ["trainer.max_epochs=400", "checkpoint.steps=1"]


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("spoil", [flip_a_byte, halve])
def test_a_torn_checkpoint_is_seen_and_the_one_before_used(
    spoil: Any, warm: list[str], tmp_path: Path, last: dict[str, dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    """Prevents: parameters with a flipped bit that train on in silence, or a run that no longer starts."""
    arguments = [*warm, "trainer.log_every_n_steps=1"]
    finished(arguments, tmp_path / "whole")
    for name, torn in (("one", 1), ("all", 2)):
        with power_cut(6, True):
            finished(arguments, tmp_path / name, "checkpoint.steps=1")
        paths = written(tmp_path / name / "checkpoints", "step")
        assert [path.name[:14] for path in paths] == ["step-000000005", "step-000000006"]
        for path in paths[-torn:]:
            spoil(path)
        caplog.clear()
        finished(arguments, tmp_path / name)
        assert [f"{path} is torn or was altered" in caplog.text for path in paths] == [torn == 2, True]
        assert ("starting from the beginning" in caplog.text) == (torn == 2)
        check_same(tmp_path / "whole", tmp_path / name, last)


def until(found: Any, process: Command) -> None:
    """Wait for a file that a process writes."""
    while not next(iter(found()), None):
        assert process.poll() is None, process.communicate()[0][-3000:]
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_leaves_a_checkpoint_and_an_exit_code(
    number: int, code: int, arguments: list[str], tmp_path: Path
) -> None:
    """Prevents: minutes of training lost to a scheduler, an exit status of 0, a sweep that goes on with its next
    job.
    """
    command = [*arguments, "trainer.max_epochs=400", "trainer.log_every_n_steps=1"]
    process = Command("-m", "weighting=kd,ce", *command)
    until(lambda: [*(tmp_path / "runs").rglob("checkpoints/step-*.ckpt")], process)
    process.send_signal(number)
    told, _ = process.communicate(timeout=120)
    assert process.returncode == code and "Traceback" not in told, told[-3000:]
    assert f"{signal.Signals(number).name}: stopping after this step" in told and "repeat the command" in told
    (folder,) = [path.parent for path in (tmp_path / "runs").rglob("checkpoints")]  # of the first job alone
    before = max(int(path.name.split("-")[1]) for path in (folder / "checkpoints").glob("step-*.ckpt"))
    rows = (folder / "log/metrics.csv").read_text().splitlines()
    assert int(rows[-1].split(",")[0]) == before < 1600 and not (folder / "metrics.json").exists()
    process = Command("weighting=kd", *command)
    until(
        lambda: [p for p in (folder / "checkpoints").glob("step-*.ckpt") if int(p.name.split("-")[1]) > before], process
    )
    process.kill()
    assert f"resuming from {folder}/checkpoints/step-{before:09d}" in process.communicate()[0]


def test_between_two_stages_a_signal_ends_the_process_at_once() -> None:
    """Prevents: a command that cannot be stopped while it loads models or computes logits."""
    stop = Stop()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught, stop.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
    assert caught.value.code == 75 and signal.getsignal(signal.SIGTERM) == before


def test_a_launcher_that_requeues_does_so_after_the_checkpoint() -> None:
    """Prevents: a job of SLURM that is put in the queue again, and ends, while it writes its checkpoint."""
    told: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: told.append(number))
    try:
        stop = Stop()
        with pytest.raises(SystemExit) as caught, stop.listening():
            stop.when_told = True
            os.kill(os.getpid(), signal.SIGUSR2)
            time.sleep(0.1)
            assert stop.told and not told
            stop.now()
        assert caught.value.code == 75 and told == [signal.SIGUSR2]
        os.kill(os.getpid(), signal.SIGUSR2)  # the launcher's handler is back
        time.sleep(0.1)
        assert len(told) == 2
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_two_commands_for_one_run_and_for_one_teacher(arguments: list[str], tmp_path: Path) -> None:
    """Prevents: two processes that write one run's checkpoints, or train the same teacher twice."""
    long = Command("weighting=kd", *arguments, *LONG)
    other = Command("weighting=ce", *arguments)  # the same teacher and cache, at the same time
    until(lambda: [*(tmp_path / "runs").rglob("checkpoints/step-*.ckpt")], long)
    again = Command("weighting=kd", *arguments, *LONG)
    told, _ = again.communicate(timeout=120)
    assert again.returncode == 1 and "another process is at work in" in told and "Traceback" not in told
    told, _ = other.communicate(timeout=300)
    assert other.returncode == 0 and "results in" in told, told[-3000:]
    assert long.poll() is None
    long.terminate()
    of_long, _ = long.communicate(timeout=120)
    assert long.returncode == 75
    assert (told + of_long).count("training the teacher") == 1
    for kind in ("teacher", "logits"):
        assert len([*(tmp_path / "cache" / kind).glob("*/key.json")]) == 1


@pytest.mark.parametrize(
    ("death", "said"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "a data worker was killed (signal: "),
        (lambda: bytearray(1 << 60), "the memory of a data worker was exhausted"),
    ],
)
def test_a_data_worker_that_runs_out_of_memory(
    death: Any,
    said: str,
    warm: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Prevents: a traceback of three processes, a training that waits for ever for its dead worker, advice that begins
    again.
    """
    caplog.set_level("INFO")
    parent, real, folder = os.getpid(), EncodedSplit.__getitem__, tmp_path / "cut"
    arguments = [*warm, "weighting=rwkd"]

    def dying(self: EncodedSplit, index: int) -> dict[str, Any]:
        if (
            os.getpid() != parent and len(self) == 64 and written(folder / "checkpoints", "step")
        ):  # the second epoch's rows
            death()
        return real(self, index)

    finished(arguments, tmp_path / "whole")
    monkeypatch.setattr(EncodedSplit, "__getitem__", dying)
    with pytest.raises(UserError) as caught:
        finished(arguments, folder, "data.num_workers=1")
    assert said in str(caught.value) and "data.num_workers=0" in str(caught.value)
    monkeypatch.undo()
    (checkpoint,) = written(folder / "checkpoints", "step")
    finished(arguments, folder, "data.num_workers=0")
    assert f"resuming from {checkpoint}" in caplog.text
    for name in ("student/model.safetensors", "weights.parquet"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with_workers, without = (run_digest(config([*arguments, f"data.num_workers={n}"])) for n in (1, 0))
    assert with_workers == without  # so train.py finds the same folder


def test_memory_of_the_training(warm: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents: an allocator's traceback where a setting would help."""
    finished(warm, tmp_path / "a", "weighting=kd")
    monkeypatch.setattr(DistillationModule, "training_step", lambda *_: torch.empty(1 << 60))
    with pytest.raises(UserError, match=r"trainer\.accumulate=4"):
        finished(warm, tmp_path / "b", "weighting=ce")


@pytest.mark.parametrize("method", ["kd", "rwkd"])
def test_a_loss_that_is_not_finite_is_kept_for_replay(
    method: str, warm: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prevents: a student of NaNs, found hours later; a culprit among a million rows that nobody can name."""
    rows = finished(warm, tmp_path / "a", "weighting=ce")
    assert rows["cost"]["steps"] == 8
    real = EncodedSplit.__getitem__

    def poisoned(self: EncodedSplit, index: int) -> dict[str, Any]:
        row = real(self, index)
        if len(self) == 64 and index == 17 and "teacher_logits" in row:  # the training rows
            row["teacher_logits"] = row["teacher_logits"] * float("nan")
        return row

    monkeypatch.setattr(EncodedSplit, "__getitem__", poisoned)
    folder = tmp_path / method
    with pytest.raises(UserError) as caught:
        finished(warm, folder, f"weighting={method}", "checkpoint.steps=1")
    said = str(caught.value)
    assert "\n" not in said and "nan" in said and str(folder / "failed_step.safetensors") in said
    kept, told = load_file(folder / "failed_step.safetensors"), json.loads((folder / "failed_step.json").read_text())
    assert 17 in kept["index"] and kept["input_ids"].shape[0] == len(kept["index"]) == len(told["idx"]) == len(
        kept["losses"]
    )
    (bad,) = (~kept["losses"].isfinite().all(1)).nonzero().flatten().tolist()
    assert kept["index"][bad] == 17
    paths = written(folder / "checkpoints", "step")
    state = AtomicCheckpointIO().load_checkpoint(paths[-1])["state_dict"] if paths else {}
    assert all(bool(value.isfinite().all()) for value in state.values() if value.is_floating_point())
    assert bool(paths) == (told["step"] > 0)
