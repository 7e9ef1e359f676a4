"""A finished tiny run and its export with everything, made once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rwkd_lightning.export.__main__ import main
from tests.run.conftest import backbone, glue, tweets  # noqa: F401 - fixtures
from tests.run.test_pipeline_pairs import run_in
from tests.run.tiny import overrides
from tests.systems.text.models.conftest import save  # noqa: F401 - a fixture


@pytest.fixture(scope="session")
def run(tweets: Path, backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """Three classes of tweets, one text column, its teacher in the cache."""
    folder = tmp_path_factory.mktemp("shipped")
    run_in(folder / "run", *overrides(tweets, backbone, folder), "weighting=kd")
    return folder / "run"


@pytest.fixture(scope="session")
def out(run: Path) -> Path:
    """Its export in the default place."""
    assert main([str(run), "--int8", "--compare"]) == 0
    return run / "export"


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    """The run, to be spoiled."""
    shutil.copytree(run, tmp_path / "copied", ignore=shutil.ignore_patterns("export"))
    return tmp_path / "copied"


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line that a command ends with, status 1."""

    def line(command: Callable[[list[str]], int], *arguments: object) -> str:
        capsys.readouterr()
        assert command([str(argument) for argument in arguments]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "Traceback" not in error, error
        return error

    return line
