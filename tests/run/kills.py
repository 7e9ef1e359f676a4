"""Kills runs with SIGKILL at random moments, repeats the command until it ends, and compares with a run never killed.

python -m tests.run.kills --kills 20
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import pyarrow.parquet

from tests.run.tiny import overrides, write_backbone, write_tweets

ROOT = Path(__file__).parents[2]
OPTIONS = [
    "data.label_noise=0.4",
    "data.teacher_noise=0.4",
    "trainer.select=best",
    "trainer.log_every_n_steps=1",
    "checkpoint.steps=1",
]


class Running(Protocol):
    """A process; `subprocess.Popen` is one."""

    def poll(self) -> int | None: ...

    def kill(self) -> None: ...


WRITING = "a checkpoint being written"
STAGES = ["the teacher", "the teacher's logits", "before the student", "the student", "evaluation and export"]
STEPS = 8  # of the student, in a whole run
Start = Callable[[Sequence[str]], Running]


def command(arguments: Sequence[str]) -> Running:
    """Start ``train.py``."""
    return subprocess.Popen(
        [sys.executable, "train.py", *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def writing(folder: Path, since: float) -> bool:
    """Whether a checkpoint that was begun after this time is not whole yet."""
    with contextlib.suppress(FileNotFoundError):
        return any(path.stat().st_mtime >= since for path in folder.rglob("checkpoints/*.part"))
    return False


def stage(folder: Path, since: float) -> str:
    """What a run that was started at this time was at, by the files that it has left."""
    teacher = [*folder.glob("cache/teacher/*/key.json")]
    runs = [*folder.glob("runs/*/*/.lock")]
    if writing(folder, since):
        return WRITING
    if not teacher:
        return "the teacher" if [*folder.glob("cache/teacher/*.part/checkpoints")] else "before the teacher"
    if not [*folder.glob("cache/logits/*/key.json")]:
        return "the teacher's logits"
    if not any([*run.parent.glob("checkpoints/step-*")] for run in runs):
        return "before the student"
    trained = any([*run.parent.glob(f"checkpoints/step-{STEPS:09d}-*")] for run in runs)
    return "evaluation and export" if trained else "the student"


def wait(process: Running, until: Callable[[], bool] = lambda: False) -> int | None:
    """Wait for the process, or for the condition: its exit status, or None where it still runs."""
    while (status := process.poll()) is None and not until():
        time.sleep(0.001)
    return status


def kill_until_done(
    start: Start, arguments: Sequence[str], folder: Path, seconds: float, kills: int, draw: random.Random
) -> list[str]:
    """Repeat the command until it ends, killing it at random moments, at most so often; what it was at, each time.

    A third of the kills comes at any moment, a third waits for a checkpoint that is being written, a third for a stage,
    since most of the time goes into imports.

    Args:
        seconds: that a whole run takes.
    """
    hit: list[str] = []
    while True:
        since, process = time.time(), start(arguments)
        moment, kind, target = (
            since + draw.uniform(0, seconds),
            draw.choice(["moment", WRITING, "stage"]),
            draw.choice(STAGES),
        )
        wanted = {WRITING: WRITING, "stage": target}.get(kind)

        def due(since: float = since, moment: float = moment, wanted: str | None = wanted) -> bool:
            return time.time() > moment if wanted is None else stage(folder, since) == wanted

        status = wait(process, due) if len(hit) < kills else wait(process)
        if status is None:
            time.sleep(draw.uniform(0, 0.3) if kind == "stage" else 0)
            process.kill()
            wait(process)
            hit.append(stage(folder, since))
        elif status != 0:
            raise RuntimeError(f"after {len(hit)} kills ({hit}) the run in {folder} ended with status {status}")
        else:
            return hit


def differences(whole: Path, killed: Path) -> list[str]:
    """The results that are not the same to the byte (weights: to the bit), of the teacher and of the run."""
    wrong = []
    for pattern in (
        "cache/teacher/*/model.safetensors",
        "cache/logits/*/logits.safetensors",
        "runs/*/*/log/metrics.csv",
        "runs/*/*/student/model.safetensors",
        "runs/*/*/weights.parquet",
    ):
        (one,), (other,) = whole.glob(pattern), killed.glob(pattern)
        same = (
            pyarrow.parquet.read_table(one).equals(pyarrow.parquet.read_table(other))
            if pattern.endswith("parquet")
            else one.read_bytes() == other.read_bytes()
        )
        wrong += [] if same else [pattern]
    with next(killed.glob("runs/*/*/log/metrics.csv")).open() as file:
        rows = [tuple(row) for row in csv.reader(file)]
    wrong += ["a row of the log stands twice"] if len(set(rows)) != len(rows) else []
    left = [path for path in killed.glob("runs/*/*/*") if path.name == "checkpoints" or "part" in path.suffix]
    return wrong + [f"left over: {path.name}" for path in left]


def campaign(start: Start, folder: Path, kills: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Kill so many times in all, in as many runs as that takes; what was hit, and what differed."""
    draw, hit, wrong = random.Random(seed), Counter[str](), []
    tweets, backbone = write_tweets(folder / "tweets.csv"), write_backbone(folder / "backbone")
    begin = time.perf_counter()
    if wait(start([*overrides(tweets, backbone, folder / "whole"), *OPTIONS])) != 0:
        raise RuntimeError("the run that is not killed fails too")
    seconds, number = time.perf_counter() - begin, 0
    while sum(hit.values()) < kills:
        number += 1
        where = folder / f"killed-{number}"
        now = kill_until_done(
            start, [*overrides(tweets, backbone, where), *OPTIONS], where, seconds, kills - sum(hit.values()), draw
        )
        hit.update(now)
        wrong += [f"run {number}: {what}" for what in differences(folder / "whole", where)]
        print(f"run {number}: killed {len(now)} times ({', '.join(now)})", file=sys.stderr, flush=True)
    return hit, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        hit, wrong = campaign(command, Path(folder), arguments.kills, arguments.seed)
    for what, count in hit.most_common():
        print(f"{count:4} kills in {what}")
    print("\n".join(wrong) if wrong else "every run ended as the one that was never killed")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
