"""The time that a training still takes, on a terminal and in a log file."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rwkd_lightning.run import progress
from rwkd_lightning.run.progress import Lines, steps_of
from rwkd_lightning.utils import bars
from tests.run.test_pipeline_run import finished


def trainer(step: int, epochs: int | None = 3, steps: int = -1) -> Any:
    return SimpleNamespace(
        global_step=step,
        max_epochs=epochs,
        max_steps=steps,
        num_training_batches=100,
        current_epoch=min(step // 100, 2),
        is_global_zero=True,
    )


@pytest.mark.parametrize(
    ("epochs", "steps", "total"), [(3, -1, 300), (None, 70, 70), (3, 70, 70), (1, 500, 100), (-1, -1, math.inf)]
)
def test_the_last_step(epochs: int | None, steps: int, total: float) -> None:
    """Prevents: a time to the end of the epoch where three are asked for, or to one that is never reached."""
    assert steps_of(trainer(0, epochs, steps)) == total


def test_a_line_a_minute(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Prevents: a log file full of lines, or silent for an hour; a rate that counts the steps before a resume."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    lines = Lines("student (rwkd)")
    lines.on_train_start(trainer(50))  # resumed there
    with caplog.at_level(logging.INFO):
        for step in range(51, 301):
            now[0] += 1.0
            lines.on_train_batch_end(trainer(step))
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "student (rwkd): epoch 1, step 60 of 300, 4 min left"
    assert said[-1] == "student (rwkd): epoch 3, step 300 of 300, 1 s left" and len(said) == 5


def test_a_pass_without_a_training(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Prevents: an evaluation of an hour of which a log file says nothing, or a line for each batch."""
    now = [0.0]
    monkeypatch.setattr(bars.time, "monotonic", lambda: now[0])
    seen = []
    with caplog.at_level(logging.INFO):
        for part in bars.over(range(200), "student logits: test"):
            seen.append(part)
            now[0] += 1.0
    assert seen == list(range(200))
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "student logits: test: batch 10 of 200, 3 min left"
    assert said[-1] == "student logits: test: batch 190 of 200, 10 s left" and len(said) == 4
    caplog.clear()
    monkeypatch.setattr(bars, "_shown", False)
    for _ in bars.over(iter(range(90)), "without a length"):
        now[0] += 1.0
    assert not caplog.records


def test_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Prevents: a bar in 40 columns that is cut off before it tells the time left, or that wraps."""
    monkeypatch.setattr(bars, "drawn", lambda: True)
    for columns in (40, 80):
        monkeypatch.setenv("COLUMNS", str(columns))
        list(bars.over(range(50), "student logits: validation"))
        said = capfd.readouterr().err.split("\r")
        assert all(len(line) <= columns for line in said)
        assert any(
            line.startswith("student logits: validation") and ("left" in line) == (columns == 40) for line in said
        )


def test_on_a_terminal(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Prevents: a bar that tells the end of the epoch alone."""
    monkeypatch.setattr(bars, "drawn", lambda: True)
    finished([*arguments, "trainer.log_every_n_steps=1", "trainer.select=best"], tmp_path / "run", "weighting=kd")
    said = "".join(capfd.readouterr())
    assert "student (kd): epoch 2" in said and "left=" in said
    assert "epoch 1, scoring" in said and "Validation" not in said
