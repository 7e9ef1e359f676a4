"""A disk that fills up while a run caches, checkpoints or exports: a small tmpfs, in a mount namespace of the test's
own.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.forked import Command
from tests.run.test_pipeline_run import finished, weights_of

NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]
HOLD = "mkdir -p {disk} && mount -t tmpfs -o size=8m none {disk} && echo mounted && read"


def enter(process: int) -> None:
    """Join the namespaces of a process."""
    library = ctypes.CDLL(None, use_errno=True)
    spaces = [os.open(f"/proc/{process}/ns/{name}", os.O_RDONLY) for name in ("user", "mnt")]
    for space in spaces:
        if library.setns(space, 0) != 0:
            raise OSError(ctypes.get_errno(), "setns")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Path, Callable[[], None]]]:
    """A disk of 8 MiB: its folder, the same seen from here, and what a process calls that is to have it."""
    folder = tmp_path / "disk"
    holder = subprocess.Popen(
        [*NAMESPACE, "bash", "-c", HOLD.format(disk=folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None and holder.stdout.readline() == b"mounted\n"
    yield folder, Path(f"/proc/{holder.pid}/root{folder}"), functools.partial(enter, holder.pid)
    holder.communicate(b"\n")


def fill(file: Path) -> None:
    """Write until nothing more fits."""
    with file.open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while True:
            ballast.write(bytes(1 << 20))


def works() -> bool:
    """Whether this kernel lets a user mount a disk of his own."""
    try:
        return subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not works(), reason="needs a kernel that lets a user mount a tmpfs")
@pytest.mark.parametrize(
    ("setting", "when"),
    [
        ("cache_dir", "teacher/*.part/checkpoints/step-*.ckpt"),
        ("cache_dir", "teacher/*/key.json"),
        ("runs_dir", "*/*/checkpoints/step-*.ckpt"),
        ("runs_dir", "*/*/checkpoints/step-000000008-*"),
    ],
    ids=["teacher's checkpoint", "logits", "checkpoint", "export"],
)
def test_a_disk_that_fills_up(
    setting: str, when: str, arguments: list[str], tmp_path: Path, disk: tuple[Path, Path, Callable[[], None]]
) -> None:
    """Prevents: a traceback out of a writer's depths, half a file that is taken for a whole one, a run that must begin
    anew.
    """
    folder, seen, prepare = disk
    given = ["checkpoint.steps=1", *(a for a in arguments if not a.startswith(setting)), f"{setting}={folder}"]
    process = Command(*given, prepare=prepare)
    while not next(seen.glob(when), None) and process.poll() is None:
        time.sleep(0.005)
    fill(seen / "ballast")
    first, _ = process.communicate()
    assert process.returncode == 1 and "Traceback" not in first and f"{setting}='{folder}" in first, first[-3000:]
    assert "cannot be written (No space left on device" in first and f"give {setting}=DIR on another disk" in first
    left = [
        path
        for path in seen.rglob("*")
        if path.name == "metrics.json"
        or path.name.startswith(".student-")
        or (path.suffix == ".part" and path.is_file())
    ]
    assert not left
    (seen / "ballast").unlink()
    again = Command(*given, prepare=prepare)
    second, _ = again.communicate()
    assert again.returncode == 0 and "Traceback" not in second, second[-3000:]
    assert ("resuming from" in second) == ("checkpoints" in when), second[-3000:]
    whole = tmp_path / "whole"
    finished([a for a in arguments if not a.startswith("cache_dir")], whole, f"cache_dir={tmp_path / 'another'}")
    (weights,) = (seen if setting == "runs_dir" else tmp_path / "runs").rglob("weights.parquet")
    assert weights_of(weights.parent).equal(weights_of(whole))
