"""Whole runs whose student is no transformer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rwkd_lightning.cli import schema
from rwkd_lightning.systems.text.kinds import KINDS
from rwkd_lightning.utils.errors import UserError
from tests.run.test_pipeline_run import config, finished
from tests.run.test_resume import NOISE, check_same, power_cut

SIZES = "hidden_size: 8, dropout: 0.1"


def of_kind(warm: list[str], name: str, *more: str) -> list[str]:
    """A tiny student of this kind; a further size stands behind its name."""
    return [*warm, f"pair.student.kind={{name: {name}, {SIZES}}}", "pair.student.layers=null", *more]


@pytest.mark.parametrize(
    ("name", "more"),
    [
        *((name, ["weighting=rwkd"]) for name in sorted(KINDS)),
        ("bilstm", ["weighting=rwkd", "meta=all"]),
        ("bilstm", ["weighting=rwkd", "meta=all", "meta/engine=jvp"]),
        ("cnn", ["weighting=rwkd", "meta=all", "meta/engine=unrolled", "meta.lookahead_lr=0.1"]),
        ("cnn", ["weighting=rwkd", "meta=last_block", "terms=[ce,kd,soft_ce]"]),
        ("bilstm", ["weighting=kd", "terms=[ce,kd,hidden]", "loss_terms.hidden.layers=[[0,1]]"]),
        ("static", ["weighting=gradnorm", "pair.student.table=none"]),
        ("cnn, embedding_size: 3", ["weighting=l2rw"]),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else x,
)
def test_a_whole_run(name: str, more: list[str], warm: list[str], tmp_path: Path) -> None:
    """Prevents: a student that trains, but whose files say other things than the table."""
    result = finished(of_kind(warm, name, *more), tmp_path / "run", "trainer.max_epochs=2", "optimizer.lr=1e-2")
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run/student").eval()
    assert type(student) is KINDS[name.partition(",")[0]]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run/student")
    rows = pyarrow.parquet.read_table(tmp_path / "run/predictions.parquet").to_pylist()
    assert result["cost"]["student_parameters"] == student.num_parameters()
    assert {row["split"] for row in rows} >= {"test"} and tokenizer("good")["input_ids"]
    table = pyarrow.parquet.read_table(tmp_path / "run/weights.parquet").to_pydict()
    assert torch.tensor(table["w_ce"]).isfinite().all()


def test_exact_resume(warm: list[str], tmp_path: Path, last: dict[str, dict[str, Any]]) -> None:
    """Prevents: words or layers that are drawn anew when a run goes on."""
    options = [*of_kind(warm, "bilstm"), *NOISE, "weighting=rwkd", "meta=all", "trainer.log_every_n_steps=1"]
    finished(options, tmp_path / "whole")
    with power_cut(3, True):
        finished(options, tmp_path / "cut", "checkpoint.steps=3")
    finished(options, tmp_path / "cut")
    check_same(tmp_path / "whole", tmp_path / "cut", last)


def test_a_student_begins_with_its_teachers_words(warm: list[str], backbone: Path, tmp_path: Path) -> None:
    """Prevents: a table that is read and not used."""
    steps = ["weighting=ce", "optimizer.lr=1e-9", "trainer.max_steps=1"]
    finished(of_kind(warm, "cnn"), tmp_path / "run", *steps)
    mine = load_file(tmp_path / "run/student/model.safetensors")["body.words.weight"]
    theirs = load_file(backbone / "model.safetensors")["embeddings.word_embeddings.weight"]
    assert torch.allclose(mine[1:], theirs[1:], atol=1e-6)


def test_a_file_of_vectors_is_an_input(warm: list[str], tmp_path: Path) -> None:
    """Prevents: a run that goes on, or is taken for finished, with other vectors under the same path."""
    file = tmp_path / "vectors.txt"
    words = [
        "the",
        "a",
        "is",
        "it",
        "bad",
        "sad",
        "awful",
        "poor",
        "table",
        "chair",
        "door",
        "wall",
        "good",
        "happy",
        "great",
        "nice",
    ]
    file.write_text("".join(f"{word} {i} 1 -1\n" for i, word in enumerate(words)))
    arguments = [*of_kind(warm, "static"), f"pair.student.table={file}", "weighting=kd", "trainer.max_epochs=1"]
    finished(arguments, tmp_path / "run")
    file.write_text(file.read_text().replace(" 1 -1", " 2 -1"))
    with pytest.raises(UserError, match="word vectors"):
        finished(arguments, tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("cnn", ["pair.student.layers=[1]"], r"pair.student.layers=\[1\] keeps blocks of a model, and a cnn begins"),
        ("cnn", ["pair.student.lora=2"], r"pair.student.lora=2 updates a trained body, and a cnn begins"),
        ("cnn, kernel: 4", [], r"kernel=4 of a cnn has no middle"),
        ("gru", [], r"pair.student.kind.name is 'gru'"),
        ("cnn", ["pair.student.table=nowhere.txt"], r"pair.student.table='nowhere.txt' is no file"),
        ("static, kernel: 3", [], r"kernel is of a cnn, and this is a static"),
        ("static, num_hidden_layers: 3", [], r"a static student has one layer"),
        ("bilstm, num_hidden_layers: 1, embedding_size: 999", [], r"embedding_size=999 is more than"),
        ("cnn", ["terms=[ce,value_relation]"], r"value"),
    ],
)
def test_a_mistake_is_told_before_the_teacher_is_trained(
    name: str, overrides: list[str], message: str, warm: list[str], tmp_path: Path
) -> None:
    """Prevents: minutes of training before the first word of what is wrong."""
    arguments = [*of_kind(warm, name), f"cache_dir={tmp_path / 'empty'}", *overrides]
    with pytest.raises(UserError, match=message):
        schema.check(config(arguments))
        finished(arguments, tmp_path / "run")
    assert not (tmp_path / "empty/teacher").exists()


def test_a_finished_student_teaches(warm: list[str], tmp_path: Path) -> None:
    """Prevents: a folder that this package writes and cannot read."""
    finished(of_kind(warm, "cnn"), tmp_path / "run", "weighting=kd")
    again = [*of_kind(warm, "static"), f"pair.teacher.path={tmp_path / 'run'}", "pair.teacher.epochs=0"]
    result = finished(again, tmp_path / "again", "weighting=kd")
    first = json.loads((tmp_path / "run/metrics.json").read_text())
    assert result["teacher"]["test"]["accuracy"] == first["student"]["test"]["accuracy"]
