"""Two processes, told to stop and killed: they go on from the same step, and end as two that were left alone."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pyarrow.parquet

from tests.distributed.test_train_ddp import DDP, runs
from tests.forked import GLOO, Command

LONG = ["trainer.max_epochs=25", "trainer.select=best", "trainer.log_every_n_steps=1", "data.teacher_noise=0.4"]


def start(*arguments: str) -> Command:
    return Command(*arguments, *DDP, *LONG, session=True, environment=GLOO)


def last_step(folder: Path) -> int:
    return max((int(path.name.split("-")[1]) for path in folder.rglob("runs/*/*/checkpoints/step-*.ckpt")), default=0)


def beyond(step: int, folder: Path, process: Command) -> None:
    """Wait for a checkpoint after this step."""
    while last_step(folder) <= step:
        assert process.poll() is None, process.communicate()[0][-3000:]
        time.sleep(0.01)


def gone(group: int, seconds: float = 60) -> bool:
    """Whether no process of the group is left before this time is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def test_stop_and_kill(arguments: list[str], tmp_path: Path) -> None:
    """Prevents: one process that waits for ever for the other, masks of dropout that all processes share after a
    resume, rows that one process sees and the other too.
    """
    whole = start(*arguments[:-2], f"cache_dir={tmp_path / 'cache'}", f"runs_dir={tmp_path / 'whole/runs'}")
    cut = [*arguments[:-2], f"cache_dir={tmp_path / 'cache'}", f"runs_dir={tmp_path / 'cut/runs'}"]
    told, _ = whole.communicate(timeout=500)
    assert whole.returncode == 0, told[-3000:]

    process = start(*cut)
    beyond(0, tmp_path / "cut", process)
    process.send_signal(signal.SIGTERM)  # to the first process alone, as a launcher's parent gets it
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 75 and "Traceback" not in told, told[-3000:]
    assert gone(process.pid)
    stopped = last_step(tmp_path / "cut")

    process = start(*cut, "checkpoint.steps=3")
    beyond(stopped, tmp_path / "cut", process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert 0 < stopped < last_step(tmp_path / "cut") < 100

    told, _ = (process := start(*cut)).communicate(timeout=500)
    assert process.returncode == 0 and "resuming from" in told, told[-3000:]
    (one,), (other,) = (runs(tmp_path / name) for name in ("whole", "cut"))
    for name in ("student/model.safetensors", "log/metrics.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert pyarrow.parquet.read_table(one / "weights.parquet").equals(
        pyarrow.parquet.read_table(other / "weights.parquet")
    )
