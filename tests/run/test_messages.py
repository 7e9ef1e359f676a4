"""What a run says: its own messages, and of others their warnings."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.utils import configure_log

from rwkd_lightning.run.messages import ours_only
from tests.cli.test_command_line import CONF
from tests.forked import Command

LOGGERS = ("httpx", "somebody.elses", "rwkd_lightningx")


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger; handlers and levels of before come back."""
    names = ["", "rwkd_lightning", *LOGGERS]
    kept = {name: logging.getLogger(name).level for name in names}
    handlers = list(logging.getLogger().handlers)
    yield logging.getLogger()
    logging.getLogger().handlers[:] = handlers
    for name, level in kept.items():
        logging.getLogger(name).setLevel(level)


def told(folder: Path, *overrides: str) -> list[str]:
    """What is in ``train.log`` after everyone has said something at each level, as Hydra and ``train.py`` set it up."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(
            "config",
            [*overrides, f"+hydra.runtime.output_dir={folder}", "+hydra.job.name=train"],
            return_hydra_config=True,
        )
        configure_log(config.hydra.job_logging, config.hydra.verbose)
    ours_only(config.hydra.verbose)
    for name in ("rwkd_lightning.run.fit", "__main__", *LOGGERS):
        for level in ("debug", "info", "warning"):
            getattr(logging.getLogger(name), level)("%s %s", name, level)
    return (folder / "train.log").read_text().splitlines()


def test_info_of_others_stays_out(root: logging.Logger, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prevents: a line for every request to a hub, in the console and in train.log; a warning of anyone's lost."""
    logging.getLogger("somebody.elses").setLevel(logging.DEBUG)  # a level of its own does not ask that of the root
    lines = told(tmp_path)
    assert lines == [
        "rwkd_lightning.run.fit info",
        "rwkd_lightning.run.fit warning",
        "__main__ info",
        "__main__ warning",
        *(f"{name} warning" for name in LOGGERS),
    ]
    assert capsys.readouterr().out.splitlines() == lines


@pytest.mark.parametrize(
    ("verbose", "more"),
    [
        ("true", [f"{name} {level}" for name in LOGGERS for level in ("debug", "info")]),
        ("httpx", ["httpx debug", "httpx info"]),
        ("[httpx,somebody]", ["httpx debug", "httpx info", "somebody.elses debug", "somebody.elses info"]),
    ],
)
def test_what_is_asked_for_is_shown(verbose: str, more: list[str], root: logging.Logger, tmp_path: Path) -> None:
    """Prevents: hydra.verbose, which asks for the lines of others, without effect."""
    plain = set(told(tmp_path))
    ours_only()  # twice changes nothing
    (tmp_path / "verbose").mkdir()
    assert set(more) <= set(told(tmp_path / "verbose", f"hydra.verbose={verbose}")) - plain


def test_warnings_speak_in_keys(root: logging.Logger, tmp_path: Path) -> None:
    """Prevents: advice to set an argument, for whoever typed a key."""
    told(tmp_path)
    logging.getLogger("rwkd_lightning.training.module").warning("step %d: lower `weighting.lr`, `clip=None`", 3)
    assert (tmp_path / "train.log").read_text().splitlines()[-1] == "step 3: lower weighting.lr, trainer.clip=null"


def test_train_py_asks_for_it(tmp_path: Path) -> None:
    """Prevents: a filter that no run uses, or that only the first job of a sweep has."""
    code = """
import logging, runpy
import rwkd_lightning.run.runner as pipeline
def run(config, folder):
    for name in ("httpx", "rwkd_lightning.run.runner"):
        logging.getLogger(name).info("%s of seed %d", name, config.seed)
    return {"meta": {"accuracy": 0.5}}
pipeline.run = run
runpy.run_path("train.py", run_name="__main__")
"""
    script = tmp_path / "play.py"
    script.write_text(code)
    done = Command("-m", "seed=0,1", f"runs_dir={tmp_path / 'runs'}", script=script, merged=False).completed()
    assert done.returncode == 0, done.stderr
    logs = sorted(file.read_text() for file in (tmp_path / "runs").rglob("*.log"))
    assert logs == [f"rwkd_lightning.run.runner of seed {seed}\n" for seed in (0, 1)]
    assert "httpx" not in done.stdout and all(line.strip() in done.stdout for line in logs)
