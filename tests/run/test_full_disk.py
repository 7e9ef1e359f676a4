"""A disk that fills up while a run caches, checkpoints or exports: a small tmpfs, in a mount namespace of the test's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.run.test_pipeline_run import ROOT, finished, weights_of

NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]
SCRIPT = """
mkdir -p {disk} && mount -t tmpfs -o size=8m none {disk}
{command} >{out} 2>&1 &
until compgen -G '{when}' >/dev/null; do kill -0 $! 2>/dev/null || break; sleep 0.01; done
cat /dev/zero >{disk}/ballast 2>/dev/null
wait $!
echo "status $?" >>{out}
echo "== left" >>{out}
find {disk} -name metrics.json -o -name '*.part' -type f -o -name '.student-*' >>{out}
rm {disk}/ballast
echo "== again" >>{out}
{command} >>{out} 2>&1
echo "status $?" >>{out}
cp -r {disk} {kept}
"""


def works() -> bool:
    """Whether this kernel lets a user mount a disk of his own."""
    try:
        return subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not works(), reason="needs a kernel that lets a user mount a tmpfs")
@pytest.mark.parametrize(("setting", "when"), [
    ("cache_dir", "teacher/*.part/checkpoints/step-*.ckpt"), ("cache_dir", "teacher/*/key.json"),
    ("runs_dir", "*/*/checkpoints/step-*.ckpt"), ("runs_dir", "*/*/checkpoints/step-000000008-*"),
], ids=["teacher's checkpoint", "logits", "checkpoint", "export"])
def test_a_disk_that_fills_up(setting: str, when: str, arguments: list[str], tmp_path: Path) -> None:
    """Prevents: a traceback out of a writer's depths, half a file that is taken for a whole one, a run that must begin anew."""
    disk, kept, out = tmp_path / "disk", tmp_path / "kept", tmp_path / "out"
    given = [a for a in arguments if not a.startswith(setting)]
    command = " ".join(f"'{a}'" for a in [sys.executable, "train.py", "checkpoint.steps=1", *given, f"{setting}={disk}"])
    script = SCRIPT.format(disk=disk, kept=kept, out=out, command=command, when=disk / when)
    done = subprocess.run([*NAMESPACE, "bash", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=300)
    told = out.read_text()
    assert done.returncode == 0, done.stderr
    first, rest = told.split("== left\n")
    left, second = rest.split("== again\n")
    assert first.endswith("status 1\n") and "Traceback" not in told and f"{setting}='{disk}" in first, first[-3000:]
    assert "cannot be written (No space left on device" in first and f"give {setting}=DIR on another disk" in first
    assert not left
    assert second.endswith("status 0\n") and ("resuming from" in second) == ("checkpoints" in when), second[-3000:]
    whole = tmp_path / "whole"
    finished([a for a in arguments if not a.startswith("cache_dir")], whole, f"cache_dir={tmp_path / 'another'}")
    (weights,) = (kept if setting == "runs_dir" else tmp_path / "runs").rglob("weights.parquet")
    assert weights_of(weights.parent).equal(weights_of(whole))
