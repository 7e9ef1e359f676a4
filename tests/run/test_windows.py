"""A system without ``resource``, ``fcntl``, SIGUSR2 and ``os.fork``, played on this one: nothing was run on Windows
itself.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rwkd_lightning.cache import __main__ as cache
from rwkd_lightning.cache.store import Store
from rwkd_lightning.cli.overrides import check
from rwkd_lightning.run import signals as stopping
from rwkd_lightning.run.fit import resident_peak_mib

ROOT = Path(__file__).parents[2]


def test_a_run_without_what_windows_lacks(arguments: list[str], tmp_path: Path) -> None:
    """Prevents: a module that cannot be imported on Windows, or a run that asks for a signal which there is not."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.run.play_windows", *arguments, "weighting=rwkd"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    modules = list((ROOT / "rwkd_lightning").rglob("*.py"))
    assert f"imported {len(modules) - 1} modules" in done.stdout  # all but the package itself
    (written,) = (tmp_path / "runs").rglob("metrics.json")
    cost = json.loads(written.read_text())["cost"]
    assert cost["peak_memory_mib"] is None and cost["steps"] == 8


def test_memory_is_known_here() -> None:
    """Prevents: a missing figure on systems that tell it."""
    assert 10 < resident_peak_mib() < 10**6


def test_signals_of_this_system() -> None:
    """Prevents: a guard for Windows by which SLURM's signal is no longer heard on Linux."""
    assert stopping.EXIT == {signal.SIGTERM: 75, signal.SIGINT: 130, signal.SIGUSR2: 75}


@pytest.mark.parametrize("path", [r"C:\Users\me\tweets.csv", "C:/data/tweets.csv", r".\new\t.csv"])
def test_paths_of_windows_reach_the_config_as_they_are(path: str) -> None:
    """Prevents: a backslash or a colon read as syntax of an override."""
    from hydra import compose, initialize_config_dir

    check([f"data.path={path}"], ROOT / "conf")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert compose("config", [f"data.path={path}"]).data.path == path


def test_an_open_lock_file_may_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents: an error after an entry was removed, as Windows removes no file that is open."""
    Store(tmp_path).get("logits", {"a": 1}, lambda folder: (folder / "x").write_text("1") and None)
    unlink = Path.unlink

    def refusing(self: Path, missing_ok: bool = False) -> None:
        if self.suffix == ".lock":
            raise PermissionError(13, "The process cannot access the file because it is being used by another process")
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", refusing)
    assert cache.remove(cache.entries(tmp_path)) == [] and not cache.entries(tmp_path)
