"""A command in two processes, each with half the batch, and in one process with all of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet
import torch
from safetensors.torch import load_file

from tests.distributed.test_train_ddp import start
from tests.forked import GLOO, Command


def two_and_one(given: Sequence[str], folder: Path) -> tuple[Path, Path]:
    """The run's folder of two processes, and of one."""
    for name in ("two", "one"):
        arguments = [*given, f"hydra.run.dir={folder / name}"]
        done = start(*arguments) if name == "two" else Command(*arguments, merged=False, environment=GLOO).completed()
        assert done.returncode == 0, done.stderr[-3000:]
    return folder / "two", folder / "one"


def check_one(folders: tuple[Path, Path], columns: Sequence[str]) -> None:
    """The two runs have the same weights, students and scores; these columns of ``weights.parquet`` differ by row."""
    two, one = (pyarrow.parquet.read_table(folder / "weights.parquet").to_pydict() for folder in folders)
    assert two["idx"] == one["idx"] and two["visits"] == one["visits"] == [2] * len(one["idx"])
    for column in columns:
        ours, theirs = (
            torch.tensor([torch.nan if x is None else x for x in table[column]], dtype=torch.float64)
            for table in (two, one)
        )
        assert theirs[theirs.isfinite()].std() > 1e-4, column
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9, msg=column, equal_nan=True)
    ours, theirs = (load_file(folder / "student/model.safetensors") for folder in folders)
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-9, msg=name)
    scores: list[Any] = [json.loads((folder / "metrics.json").read_text()) for folder in folders]
    assert scores[0]["student"] == scores[1]["student"] and scores[0]["meta"] == scores[1]["meta"]
