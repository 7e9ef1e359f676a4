"""``train.py task=tokens`` in two processes, with half the batch each, is one process with all of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.test_train_ddp import start
from tests.forked import GLOO, Command
from tests.systems.tokens.conftest import bert, conll, overrides

__all__ = ["bert", "conll"]


@pytest.fixture(scope="module")
def without_dropout(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose training draws nothing."""
    folder = tmp_path_factory.mktemp("still")
    for file in bert.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("meta", ["bank", "all"])
def test_two_processes_are_one(meta: str, conll: Path, without_dropout: Path, tmp_path: Path) -> None:
    """Prevents: a bank of words that each process fills with its own sentences, a mean over one process's words, a
    teacher that is trained twice.
    """
    cache = tmp_path / "cache"
    given = [
        *overrides(conll, without_dropout, cache, tmp_path / "runs"),
        "weighting=rwkd",
        f"meta={meta}",
        "meta.start=0",
        "trainer.precision=64-true",
        "data.teacher_noise=0.4",
        "pair.teacher.epochs=1",
    ]
    results = []
    for name in ("two", "one"):
        arguments = [*given, f"hydra.run.dir={tmp_path / name}"]
        done = start(*arguments) if name == "two" else Command(*arguments, merged=False, environment=GLOO).completed()
        assert done.returncode == 0, done.stderr[-3000:]
        results.append(tmp_path / name)
    assert len(list((cache / "token_teacher").glob("*/key.json"))) == 1
    two, one = (pyarrow.parquet.read_table(folder / "weights.parquet").to_pydict() for folder in results)
    assert two["idx"] == one["idx"] and two["visits"] == one["visits"] == [2] * len(one["idx"])
    for column in ("w_ce", "w_kd", "loss_ce", "loss_kd", "influence_ce", "influence_kd"):
        ours, theirs = (torch.tensor(table[column], dtype=torch.float64) for table in (two, one))
        assert theirs.std() > 1e-4, column
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9, msg=column)
    ours, theirs = (load_file(folder / "student/model.safetensors") for folder in results)
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-9, msg=name)
    scores: list[Any] = [json.loads((folder / "metrics.json").read_text()) for folder in results]
    assert scores[0]["student"] == scores[1]["student"] and scores[0]["meta"] == scores[1]["meta"]
