"""``train.py task=tokens`` in two processes, with half the batch each, is one process with all of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.distributed.two_runs import check_one, two_and_one
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
    folders = two_and_one(given, tmp_path)
    assert len(list((cache / "token_teacher").glob("*/key.json"))) == 1
    check_one(folders, ("w_ce", "w_kd", "loss_ce", "loss_kd", "influence_ce", "influence_kd"))
