"""Interrupted at any step, a training ends bit for bit as one that was never interrupted."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch

from rwkd_lightning.run.checkpoints import Checkpoints
from rwkd_lightning.utils import bars
from tests.run.test_pipeline_run import METHODS, finished
from tests.run.tiny import overrides

NOISE = ["data.label_noise=0.4", "data.teacher_noise=0.4"]
STEPS = 8  # two epochs of four


class PowerCut(Exception):
    """What no code of ours expects."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all these runs: one teacher."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def arguments(tweets: Path, backbone: Path, tmp_path: Path, cache: Path) -> list[str]:
    """As elsewhere, with the shared cache."""
    return [*overrides(tweets, backbone, tmp_path), f"cache_dir={cache}"]


@contextlib.contextmanager
def power_cut(step: int, saved: bool) -> Iterator[None]:
    """Cut the power of the student's training at a step, after or before its checkpoint is written."""
    real = Checkpoints.save

    def save(self: Checkpoints, trainer: Any) -> None:
        ours = "teacher" not in str(self.folder)
        if ours and trainer.global_step == step and not saved:
            raise PowerCut
        real(self, trainer)
        if ours and trainer.global_step == step:
            raise PowerCut

    with pytest.MonkeyPatch.context() as monkeypatch, pytest.raises(PowerCut):
        monkeypatch.setattr(Checkpoints, "save", save)
        yield


def equal(one: Any, other: Any) -> bool:
    """Whether two checkpoints hold the same, to the bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(equal(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def check_same(whole: Path, other: Path, last: dict[str, dict[str, Any]]) -> None:
    """The same checkpoint (student, meta-learner, both optimizers, schedule, generators, place in the data), weights,
    log.
    """
    for name in (whole.name, other.name):
        for callback in last[name]["callbacks"].values():
            callback.pop("seconds", None)
    different = [key for key in last[whole.name] if not equal(last[whole.name][key], last[other.name][key])]
    assert not different
    assert (whole / "student/model.safetensors").read_bytes() == (other / "student/model.safetensors").read_bytes()
    assert pyarrow.parquet.read_table(whole / "weights.parquet").equals(
        pyarrow.parquet.read_table(other / "weights.parquet")
    )
    log = (other / "log/metrics.csv").read_text()
    assert (whole / "log/metrics.csv").read_text() == log
    assert len(set(log.splitlines())) == len(log.splitlines()) > 6


@pytest.mark.parametrize("method", METHODS)
def test_every_method_resumes_within_an_epoch(
    method: str, arguments: list[str], tmp_path: Path, last: dict[str, dict[str, Any]]
) -> None:
    """Prevents: state of a method that is not in the checkpoint, other dropout masks, batches seen twice or never."""
    options = [*NOISE, f"weighting={method}", "trainer.log_every_n_steps=1"]
    finished(arguments, tmp_path / "whole", *options)
    with power_cut(3, True):
        finished(arguments, tmp_path / "cut", *options, "checkpoint.steps=3")
    finished(arguments, tmp_path / "cut", *options)
    check_same(tmp_path / "whole", tmp_path / "cut", last)


EVERY = [(step, True) for step in range(1, STEPS + 1)]


@pytest.mark.parametrize(
    ("options", "cuts"),
    [
        (["trainer.select=best"], [*EVERY, (4, False), (5, False)]),
        (["trainer.select=last"], [(3, True), (4, True), (5, False)]),
        (["trainer.select=best", "data.num_workers=1"], [(3, True), (4, True), (6, False)]),
        (["trainer.max_steps=6"], [(5, True), (6, True)]),
        (["+trainer.limit_train_batches=3"], [(2, True), (3, True), (5, True)]),
    ],
    ids=["best", "last", "worker", "max_steps", "limit_train_batches"],
)
def test_any_step(
    options: list[str],
    cuts: list[tuple[int, bool]],
    arguments: list[str],
    tmp_path: Path,
    last: dict[str, dict[str, Any]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Prevents: an off-by-one at the ends of an epoch, a validation done twice or lost, a worker that reads another
    epoch.
    """
    given = [*NOISE, *options, "trainer.log_every_n_steps=1"]
    finished(arguments, tmp_path / "whole", *given)
    for step, saved in cuts:
        name = f"cut-{step}-{saved}"
        with power_cut(step, saved):
            finished(arguments, tmp_path / name, *given, "checkpoint.steps=1")
        capfd.readouterr()
        with pytest.MonkeyPatch.context() as terminal:
            terminal.setattr(bars, "drawn", bars.shown)
            finished(arguments, tmp_path / name, *given)
        if saved and step < 3:
            shown = capfd.readouterr().out.split("Training:")[-1]  # what Lightning's bar is called at first
            assert re.search(r"student \(rwkd\): epoch 1: .*/[34] ", shown)
        check_same(tmp_path / "whole", tmp_path / name, last)
