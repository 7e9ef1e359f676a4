"""Texts longer than the model reads, in windows: one row stays one sample, whatever lies beside it in a batch."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from rwkd_lightning.export.__main__ import main as export
from rwkd_lightning.export.shipped import FILE, load
from rwkd_lightning.predict.__main__ import main as predict
from rwkd_lightning.systems.text.data.collate import Collator
from rwkd_lightning.systems.text.data.encoding import encode
from rwkd_lightning.systems.text.data.overflow import check, stride_of, windows
from rwkd_lightning.systems.text.data.task import TaskSpec, build_split
from rwkd_lightning.systems.text.models import load_classifier, load_tokenizer
from rwkd_lightning.utils.errors import UserError
from tests.run.conftest import arguments, backbone, tweets  # noqa: F401 (fixtures)
from tests.run.test_pipeline_run import finished
from tests.systems.text.data.test_overflow import texts_of
from tests.systems.text.models.conftest import TASK, save  # noqa: F401 (a fixture)
from tests.test_remedies import config


def by_hand(ids: list[int], room: int, stride: int) -> list[list[int]]:
    """The tokens of each window."""
    starts = [0]
    while starts[-1] + room < len(ids):
        starts.append(starts[-1] + room - stride)
    return [ids[start : start + room] for start in starts]


@pytest.mark.parametrize(("length", "stride"), [(10, None), (10, 0), (10, 7), (4, 1), (32, None)])
def test_windows_against_token_ids(length: int, stride: int | None, backbone: Path) -> None:  # noqa: F811
    """Prevents: tokens of a text that no window has, another overlap, a window that is cut apart at another place."""
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    texts = texts_of(60, 40, length)
    task = TaskSpec("t", ("text",), ("a", "b"), ("accuracy",), "accuracy", ())
    split = build_split(task, {"idx": range(60), "label": [0] * 60, "text": texts})
    table = encode(split, tokenizer, ["text"], length, overflow="windows", stride=stride)
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    shared, several = stride_of(stride, length), 0
    for text, ids in zip(texts, table["input_ids"].to_pylist(), strict=True):
        whole = tokenizer(text, add_special_tokens=False)["input_ids"]
        expected = [[cls, *window, sep] for window in by_hand(whole, length - 2, shared)]
        assert [ids[start : start + length] for start in range(0, len(ids), length)] == expected
        several += len(expected) > 1
    assert int(table.schema.metadata[b"cut"]) == several > 0


def rows_of(table: list[list[int]]) -> list[dict[str, Any]]:
    return [{"input_ids": np.array(ids), "label": torch.tensor(0), "index": i} for i, ids in enumerate(table)]


@pytest.mark.parametrize("kind", ["bert", "gpt2", "bart", "xlnet", "albert"])
@torch.no_grad()
def test_rows_are_alike_alone_and_in_a_batch(kind: str, save: Any) -> None:  # noqa: F811
    """Prevents: logits that depend on the texts beside a text, a mean over windows that are not there, a short text
    that says other things than one that is cut.
    """
    options = {} if kind in ("gpt2", "bart") else {"initializer_range": 0.3}
    folder = str(save(kind, labels=["neg", "mid", "pos"], **options))
    model, tokenizer = load_classifier(folder, TASK, trained=True).eval(), load_tokenizer(folder)
    draw = random.Random(0)
    texts = [" ".join(f"w{draw.randrange(16)}" for _ in range(n)) for n in (3, 30, 5, 9, 17, 8)]
    encoded, several = windows(texts, tokenizer, 10, 3)
    assert several == 3
    rows, collate = rows_of(encoded["input_ids"]), Collator(tokenizer, 10)
    batch = collate(rows)
    assert batch["input_ids"].shape == (6, 6, 10) and len(batch["index"]) == 6
    together = model(batch)
    for i, row in enumerate(rows):
        alone = model(collate([row]))
        for name, value in alone.items():
            torch.testing.assert_close(together[name][i : i + 1], value, atol=1e-5, rtol=1e-5)
        ids = row["input_ids"].tolist()
        each = [ids[start : start + 10] for start in range(0, len(ids), 10)]
        by_window = [model.network(input_ids=torch.tensor([window])).logits for window in each]
        torch.testing.assert_close(alone["logits"], torch.cat(by_window).mean(0, keepdim=True), atol=1e-5, rtol=1e-5)
    cut = tokenizer([texts[0], texts[2]], truncation=True, max_length=10)["input_ids"]
    short, plain = collate([rows[0], rows[2]]), Collator(tokenizer)(rows_of(cut))
    assert all(torch.equal(short[name], plain[name]) for name in ("input_ids", "attention_mask"))
    if model.head is not None:
        torch.testing.assert_close(model.head(together["features"]), together["logits"], atol=1e-5, rtol=1e-5)


def long_tweets(path: Path, arguments: list[str]) -> list[str]:  # noqa: F811
    """Arguments of a run on 120 texts of up to 30 words, of which the model reads 8 at once."""
    rows = [
        {"text": f"{'good' if i % 2 else 'bad'} {' '.join(texts_of(1, 30, i))} {i % 9}", "label": "yn"[i % 2]}
        for i in range(120)
    ]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    own = [a for a in arguments if not a.startswith(("task", "data.path", "data.max_length"))]
    table = ["task=table", f"data.train={path}", "data.max_length=10", "pair.teacher.epochs=1"]
    return [*own, *table, "data.overflow=windows"]


@pytest.mark.parametrize(
    "options",
    [
        ["weighting=rwkd", "trainer.accumulate=2"],
        ["weighting=rwkd", "meta=all"],
        ["weighting=rwkd", "meta=last_block", "terms=[ce,kd]"],
        ["weighting=kd", "terms=[ce,kd,hidden]"],
    ],
    ids=lambda options: " ".join(options),
)
def test_runs(options: list[str], arguments: list[str], tmp_path: Path) -> None:  # noqa: F811
    """Prevents: windows that count as samples of their own, for weights, scores, the bank or parts of a batch."""
    import pyarrow.parquet

    result = finished(long_tweets(tmp_path / "a.jsonl", arguments), tmp_path / "run", *options)
    table = pyarrow.parquet.read_table(tmp_path / "run/weights.parquet")
    assert len(table) == result["rows"] if "rows" in result else 60 < len(table) < 120  # what the cuts leave
    assert set(table["visits"].to_pylist()) == {2}
    assert math.isfinite(result["student"]["test"]["macro_f1"])


def test_the_shipped_student_reads_windows(arguments: list[str], tmp_path: Path) -> None:  # noqa: F811
    """Prevents: a shipped student, or its ONNX file, that reads other tokens than the run has scored."""
    pytest.importorskip("onnxruntime")
    given = long_tweets(tmp_path / "a.jsonl", arguments)
    result = finished([*given, "data.stride=3"], tmp_path / "run", "weighting=kd")
    described = json.loads((tmp_path / "run/student" / FILE).read_text())
    assert (described["overflow"], described["stride"], described["max_length"]) == ("windows", 3, 10)
    student = load(tmp_path / "run/student")
    texts = ["good", " ".join(texts_of(1, 30, 3)) + " happy" * 20, "bad table " * 9]
    batch = student.batch([texts])
    assert len(batch["input_ids"]) > 3 and batch["index"].bincount().tolist()[0] == 1
    network = student.network()
    with torch.no_grad():
        found = student.gathered(network(*(batch[name] for name in student.inputs)), batch)
        for i, text in enumerate(texts):
            alone = student.batch([[text]])
            logits = network(*(alone[name] for name in student.inputs)).mean(0)
            torch.testing.assert_close(found[i], logits, atol=1e-5, rtol=1e-5)
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts) + "\n")
    assert export([str(tmp_path / "run"), "--onnx"]) == 0  # compared with PyTorch, and scored
    for name, options in (("torch", []), ("onnx", ["--onnx"])):
        out = tmp_path / f"{name}.jsonl"
        assert predict([str(tmp_path / "run"), str(tmp_path / "b.jsonl"), "-o", str(out), *options]) == 0
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        expected = found.double().softmax(1)[:, 1].tolist()
        assert [row["probability_y"] for row in rows] == pytest.approx(expected, abs=1e-5)
    assert "in windows of 10 tokens, of which two share 3" in (tmp_path / "run/export/README.md").read_text()
    assert result["student"]["test"]["accuracy"] >= 0


def test_the_overlap_belongs_to_the_cached_logits(arguments: list[str], tmp_path: Path) -> None:  # noqa: F811
    """Prevents: the teacher's logits of other windows, read from the cache."""
    given = long_tweets(tmp_path / "a.jsonl", arguments)
    for number, more in enumerate((["data.stride=1"], ["data.stride=5"], ["data.stride=1"])):
        finished([*given, *more], tmp_path / f"run{number}", "weighting=kd")
    assert len(list((tmp_path / "cache/logits").glob("*/key.json"))) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["data.stride=4"],
            "data.stride=4 is how far windows overlap, and data.overflow=truncate makes none; add data",
        ),
        (["data.overflow=windows", "data.stride=-1"], "data.stride is -1; give a whole number from 0"),
        (["data.overflow=windows", "data.stride=1.5"], "data.stride is 1.5; give a whole number from 0"),
        (["data.overflow=window"], "data.overflow is 'window'; give one of truncate, head_tail, windows"),
    ],
)
def test_bad_values(given: list[str], message: str) -> None:
    """Prevents: an overlap that reaches nothing."""
    with pytest.raises(UserError, match=message):
        config(*given)


def test_what_cannot_be_read_in_windows(backbone: Path) -> None:  # noqa: F811
    """Prevents: windows that never get to the end of a text, and the second text of a pair that is lost."""
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    with pytest.raises(UserError, match="data.stride is 8, and a window of data.max_length=10 has room for 8 .*give 7"):
        check("windows", tokenizer, 1, 10, 8)
    check("windows", tokenizer, 1, 10, 7)
    with pytest.raises(UserError, match="reads one text of a row in windows, .* two; use data.overflow=head_tail"):
        check("windows", tokenizer, 2, 10, None)


def test_terms_over_tokens_are_refused(arguments: list[str], tmp_path: Path) -> None:  # noqa: F811
    """Prevents: states of tokens that two windows share, compared twice or with those of another window."""
    given = long_tweets(tmp_path / "a.jsonl", arguments)
    with pytest.raises(UserError, match="'value_relation' compares .* token by token, and data.overflow=windows"):
        finished([*given, "terms=[ce,kd,value_relation]"], tmp_path / "run", "weighting=kd")
    assert not (tmp_path / "cache/teacher").exists()
