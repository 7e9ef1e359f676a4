"""The system of docs/systems.md, which lives outside the package: written to a folder, run, killed, resumed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from rwkd_lightning.run.runner import run
from rwkd_lightning.utils.errors import UserError
from tests.shipped_methods import METHODS

ROOT = Path(__file__).parents[3]
# but for one that needs a column of weights

TEXT = (ROOT / "docs/systems.md").read_text()
(YAML,), (PYTHON,) = (re.findall(rf"```{kind}\n(.*?)```", TEXT, re.S) for kind in ("yaml", "python"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two files, a cache and runs."""
    where = tmp_path_factory.mktemp("outside")
    (where / "task").mkdir()
    (where / "task/digits.yaml").write_text(YAML)
    (where / "digits.py").write_text(PYTHON)
    return where


def arguments(folder: Path) -> list[str]:
    return [
        "task=digits",
        f"cache_dir={folder / 'cache'}",
        "trainer.accelerator=cpu",
        "trainer.max_epochs=2",
        "trainer.log_every_n_steps=1",
    ]


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    """``train.py`` as the document says."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.Popen(
        [sys.executable, "train.py", "--config-dir", str(folder), *arguments(folder), *more],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_it_is_small() -> None:
    """Prevents: an example that nobody reads to its end."""
    lines = [line for line in (YAML + PYTHON).splitlines() if line.strip()]
    assert len(lines) <= 85, len(lines)


def ended(process: subprocess.Popen[str]) -> str:
    """What a process has printed, when it has ended well."""
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed[-3000:]
    return printed


def test_through_train_py_and_killed(folder: Path) -> None:
    """Prevents: a system outside the package that cannot be named, cached or resumed."""
    assert "task=digits weighting=kd seed=0" in ended(
        start(folder, "weighting=kd", f"hydra.run.dir={folder / 'by_kd'}")
    )
    rwkd = ["weighting=rwkd", "trainer.max_epochs=20", "checkpoint.steps=100"]
    killed = start(folder, *rwkd, f"hydra.run.dir={folder / 'killed'}")
    while not list((folder / "killed/checkpoints").glob("step-*.ckpt")):
        assert killed.poll() is None, killed.communicate()[0][-3000:]
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    whole = start(folder, *rwkd, f"hydra.run.dir={folder / 'whole'}")
    printed = ended(start(folder, *rwkd, f"hydra.run.dir={folder / 'killed'}"))
    assert "resuming from" in printed and "test accuracy" in printed
    ended(whole)
    results = [json.loads((folder / name / "metrics.json").read_text()) for name in ("whole", "killed")]
    assert results[0]["student"]["test"]["accuracy"] > 0.8 and results[0]["cost"]["teacher_seconds"] is None
    assert results[0]["student"] == results[1]["student"]
    for name in ("student/model.safetensors", "weights.parquet", "log/metrics.csv"):
        assert (folder / "whole" / name).read_bytes() == (folder / "killed" / name).read_bytes()


class Outside(SearchPathPlugin):
    """What ``--config-dir`` does, for ``compose``."""

    folder = ""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if self.folder:
            search_path.append("test", f"file://{self.folder}")


def config(folder: Path, *more: str) -> Any:
    Plugins.instance().register(Outside)
    Outside.folder = str(folder)
    try:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            made = compose("config", [*arguments(folder), *more])
    finally:
        Outside.folder = ""
    made.weighting_name = "any"
    return made


@pytest.mark.parametrize("method", METHODS)
def test_every_method_weighs_its_samples(method: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents: methods that know the shipped systems alone."""
    monkeypatch.syspath_prepend(str(folder))
    where = folder / method
    if method == "oracle":
        with pytest.raises(UserError, match="needs to know what is corrupted"):
            run(config(folder, f"weighting={method}"), where)
        return
    result = run(config(folder, f"weighting={method}"), where)
    table = pyarrow.parquet.read_table(where / "weights.parquet").to_pydict()
    assert result["teacher"]["test"]["accuracy"] > 0.9 and len(table["idx"]) == 1200 and set(table["visits"]) == {2}
    weights = [w for name, column in table.items() if name.startswith("w_") for w in column]
    assert all(w >= 0 for w in weights) and max(weights) > 0
