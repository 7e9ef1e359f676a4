"""``train.py`` in two processes: started by Lightning, in a sweep, and by torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet
import pytest
from transformers import AutoModelForSequenceClassification

from tests.forked import GLOO, ROOT, Command

DDP = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "data.batch_size=8"]


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``train.py``, whose second process Lightning starts."""
    return Command(*arguments, *DDP, merged=False, environment=GLOO).completed()


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "train.py",
        *arguments,
        *DDP,
    ]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **GLOO}, capture_output=True, text=True, timeout=500, check=False
    )


def runs(folder: Path) -> list[Path]:
    return sorted(file.parent for file in folder.rglob("metrics.json"))


def check(folder: Path, epochs: tuple[int, ...] = (2,)) -> None:
    """A whole run: every sample once, scores, a student that loads, one log, nothing left over.

    Args:
        epochs: those that the student may be of; all processes' rows were seen as often.
    """
    columns = pyarrow.parquet.read_table(folder / "weights.parquet").to_pydict()
    assert len(set(columns["idx"])) == len(columns["idx"]) == 64
    assert all(a > 0 for a in columns["loss_ce"]) and columns["visits"] in [[n] * 64 for n in epochs]
    assert json.loads((folder / "metrics.json").read_text())["cost"]["steps"] == 8
    AutoModelForSequenceClassification.from_pretrained(folder / "student")
    steps = [line.split(",") for line in (folder / "log/metrics.csv").read_text().splitlines()]
    assert len({line[steps[0].index("step")] for line in steps}) == len(steps)
    assert not (folder / "checkpoints").exists()


@pytest.mark.parametrize("launcher", [start, torchrun], ids=["lightning", "torchrun"])
def test_two_processes(
    arguments: list[str], tmp_path: Path, launcher: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """Prevents: processes that wait for each other at the cache, build the teacher twice, write two folders or twice
    into one.
    """
    done = launcher(*arguments, "trainer.select=best")
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = runs(tmp_path / "runs")
    check(folder, (1, 2))
    assert done.stdout.count("student validation") + done.stdout.count("results in") == 1
    assert len(list((tmp_path / "cache/teacher").glob("*/key.json"))) == 1
    again = launcher(*arguments, "trainer.select=best")
    assert again.returncode == 0 and again.stdout.count("already finished") == 1, again.stderr[-3000:]


def test_a_sweep(arguments: list[str], tmp_path: Path) -> None:
    """Prevents: a second process that repeats the whole sweep, jobs that share a folder, a second job that starts no
    process.
    """
    done = start("-m", *arguments, "weighting=kd,rwkd", "trainer.log_every_n_steps=1")
    assert done.returncode == 0, done.stderr[-3000:]
    folders = runs(tmp_path / "runs")
    assert sorted(folder.name.split("-")[0] for folder in folders) == ["kd", "rwkd"]
    for folder in folders:
        check(folder)
    assert done.stdout.count("results in") == 2
