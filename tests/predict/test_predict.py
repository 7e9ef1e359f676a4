"""Answers for a file of any size: the columns stay, each row gets its own answer, half a file is never left."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import pipeline

from rwkd_lightning.export.shipped import describe
from rwkd_lightning.predict import __main__ as command
from rwkd_lightning.predict import reader
from rwkd_lightning.predict.__main__ import main
from rwkd_lightning.systems.text.shipped import TextModel
from tests.export.test_export import small_files

TEXTS = ["good happy", "bad", "the table is a wall, a door", 'sad\n"awful"', "nice", "Ünknown wörds", "good bad " * 30]
ADDED = ["predicted_label", *(f"probability_{name}" for name in ("negative", "neutral", "positive"))]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks of the seven rows."""
    monkeypatch.setattr(command, "CHUNK", 3)


def write(path: Path, texts: list[str] = TEXTS) -> Path:
    """A table with a number and a text per row."""
    rows = [{"id": i, "text": text} for i, text in enumerate(texts)]
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerows([["id", "text"], *([row["id"], row["text"]] for row in rows)])
    return path


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that was written."""
    if path.suffix == ".parquet":
        found: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    elif path.suffix == ".jsonl":
        found = [json.loads(line) for line in path.read_text().splitlines()]
    else:
        with path.open(newline="", encoding="utf-8") as file:
            found = list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))
    return found


@pytest.fixture(scope="module")
def shares(out: Path) -> list[dict[str, float]]:
    """The same by transformers' own pipeline, text by text."""
    classify = pipeline("text-classification", model=str(out), top_k=None)
    return [{one["label"]: one["score"] for one in row} for row in classify(TEXTS, truncation=True)]


@pytest.mark.parametrize("source", ["a.csv", "a.tsv", "a.jsonl", "a.parquet"])
@pytest.mark.parametrize("target", ["b.csv", "b.tsv", "b.jsonl", "b.parquet"])
def test_every_kind_of_file(
    source: str, target: str, run: Path, shares: list[dict[str, float]], tmp_path: Path
) -> None:
    """Prevents: answers of another row, columns lost or renamed, a text changed on its way."""
    given, to = write(tmp_path / source), tmp_path / target
    assert main([str(run), str(given), "-o", str(to), "--batch-size", "2"]) == 0
    rows = read(to)
    assert [list(row) for row in rows] == [["id", "text", *ADDED]] * len(TEXTS)
    assert [row["text"] for row in rows] == TEXTS and [int(row["id"]) for row in rows] == list(range(len(TEXTS)))
    for row, share in zip(rows, shares, strict=True):
        assert row["predicted_label"] == max(share, key=share.__getitem__)
        assert {name: float(row[f"probability_{name}"]) for name in share} == pytest.approx(share, abs=1e-5)
    if source == "a.parquet" and target == "b.parquet":
        assert [str(t) for t in parquet.read_schema(to).types] == ["int64", "string", "string", *["float"] * 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == [source, target]


@pytest.mark.parametrize(("option", "close"), [("--onnx", 1e-5), ("--int8", 0.1)])
def test_onnx_answers_too(
    option: str, close: float, run: Path, out: Path, shares: list[dict[str, float]], tmp_path: Path
) -> None:
    """Prevents: an option that is taken and changes nothing, or another model."""
    given = write(tmp_path / "a.csv")
    for folder in (run, out):
        to = tmp_path / f"{folder.name}.jsonl"
        assert main([str(folder), str(given), "-o", str(to), option]) == 0
        for row, share in zip(read(to), shares, strict=True):
            assert {name: row[f"probability_{name}"] for name in share} == pytest.approx(share, abs=close)


def test_a_file_streams(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents: a file that is read to its end before the first answer is written, so that memory grows with it."""
    events = []
    chunks, writing = reader.TableFile.chunks, command.writer.writing_table

    def noted(self: Any, size: int) -> Any:
        for chunk in chunks(self, size):
            events.append(f"read {len(chunk.lines)}")
            yield chunk

    def noting(*arguments: Any) -> Any:
        import contextlib

        @contextlib.contextmanager
        def manager() -> Any:
            with writing(*arguments) as write:
                yield lambda table: events.append(f"write {len(table)}") or write(table)

        return manager()

    monkeypatch.setattr(reader.TableFile, "chunks", noted)
    monkeypatch.setattr(command.writer, "writing_table", noting)
    assert main([str(run), str(write(tmp_path / "a.csv")), "-o", str(tmp_path / "b.csv")]) == 0
    assert events == ["read 3", "write 3", "read 3", "write 3", "read 1", "write 1"]


def test_an_interrupted_command_leaves_the_file_as_it_was(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prevents: half a file under the name of a whole one."""
    given, to, calls = write(tmp_path / "a.csv"), tmp_path / "b.csv", []
    real = command.answered

    def stopping(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(command, "answered", stopping)
    to.write_text("before")
    assert main([str(run), str(given), "-o", str(to), "--force"]) == 130
    assert to.read_text() == "before" and sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "b.csv"]
    assert "nothing was written" in capsys.readouterr().err


def test_a_terminated_process_leaves_nothing(run: Path, tmp_path: Path) -> None:
    """Prevents: the same by a scheduler's signal."""
    given = write(tmp_path / "a.csv", TEXTS * 20_000)
    process = subprocess.Popen(
        [sys.executable, "-m", "rwkd_lightning.predict", str(run), str(given), "-o", str(tmp_path / "b.csv")]
    )
    while not list(tmp_path.glob(".b.csv.*.part")) and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(60) == 143
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.parametrize("target", ["b.csv", "b.parquet"])
def test_a_full_disk(target: str, run: Path, tmp_path: Path, said: Callable[..., str]) -> None:
    """Prevents: a traceback, half a file."""
    given = write(tmp_path / "a.csv", TEXTS * 200)
    with small_files(8192):
        line = said(main, run, given, "-o", tmp_path / target)
    assert "--out=" in line and "cannot be written (File too large" in line
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("a.csv", 'id,text\n1,"two\nlines"\n2,b,c\n', "has 3 fields in line 4 and 2 in its header"),
        ("a.csv", 'id,text\n1,"two\nlines"\n\n2,b\n3, \n4,\n', "has no text in text in line 6, 7; drop such rows"),
        ("a.csv", 'id,text\n1,a\n2,"b" c\n', "line 3 is no row of a table"),
        ("a.csv", 'id,text\n1,a\n2,"b', "line 3 is no row of a table"),
        ("a.csv", b"id,text\n1,a\n2,na\xefve\n", r"is not utf-8 in line 3 (bytes b'\xef'); say which encoding"),
        ("a.csv", "text,text\na,b\n", "'text' is empty or named twice"),
        ("a.csv", "id,text,\n1,a,\n", "'' is empty or named twice"),
        ("a.csv", "id,text\n", "has no rows"),
        ("a.csv", "", "has no rows"),
        ("a.csv", "id,title\n1,a\n", "has the columns id, title, the student was trained on text; name its text"),
        ("a.csv", "text,predicted_label\na,b\n", "has a column 'predicted_label' already; give --prefix student_"),
        ("a.jsonl", '{"text": "a"}\n\n{"text": "b"\n', "line 3 is no JSON object"),
        ("a.jsonl", '{"text": "a"}\n["b"]\n', "line 2 is no JSON object (a list"),
        ("a.jsonl", '{"text": "a"}\n{"id": 2}\n', "has no text in text in line 2"),
        ("a.jsonl", '{"text": "a"}\n{"text": 5}\n', "lines 1 to 2: a field has values of several types"),
        ("a.jsonl", '{"text": 5}\n', "column 'text' holds int64, and no text (lines 1 to 1)"),
        ("a.parquet", b"PAR1", "cannot be read as Parquet"),
        ("a.xlsx", "", "is none of .csv, .tsv, .jsonl, .parquet"),
    ],
)
def test_bad_files_are_named_before_any_answer(
    name: str, content: str | bytes, wanted: str, run: Path, tmp_path: Path, said: Callable[..., str], monkeypatch: Any
) -> None:
    """Prevents: a file that fails at its last row after hours; a line that nobody finds; a row that is left out."""
    given = tmp_path / name
    given.write_bytes(content if isinstance(content, bytes) else content.encode())
    monkeypatch.setattr(command, "answered", None)
    assert wanted in said(main, run, given, "-o", tmp_path / "b.csv")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_ways_out_of_bad_files(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prevents: a remedy that a message names and that does not work."""
    (tmp_path / "a.csv").write_bytes("nr,body,predicted_label\n1,naïve,x\n2, ,y\n3,good,z\n".encode("latin-1"))
    options = ["--encoding", "latin-1", "--text", "body", "--allow-blank", "--prefix", "student_"]
    assert main([str(run), str(tmp_path / "a.csv"), "-o", str(tmp_path / "b.csv"), *options]) == 0
    assert "(3 rows, 1 without a text and so without an answer)" in capsys.readouterr().out
    first, second, third = read(tmp_path / "b.csv")
    assert first["body"] == "naïve" and first["student_predicted_label"] in ("negative", "neutral", "positive")
    assert third["student_predicted_label"] in ("negative", "neutral", "positive")
    assert [second["predicted_label"], second["student_predicted_label"]] == ["y", ""]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_mark_at_the_start_is_no_text(name: str, run: Path, tmp_path: Path) -> None:
    """Prevents: a first column that is not known, as its name begins with a mark that spreadsheets write."""
    content = "text\ngood\n" if name == "a.csv" else '{"text": "good"}\n'
    (tmp_path / name).write_text(content, encoding="utf-8-sig")
    assert main([str(run), str(tmp_path / name), "-o", str(tmp_path / "b.csv")]) == 0
    assert next(iter(read(tmp_path / "b.csv")[0])) == "text"


def test_types_of_parquet_stay(run: Path, tmp_path: Path) -> None:
    """Prevents: dates, categories and nulls that become text or fail between two chunks."""
    days = [date(2026, 1, i + 1) for i in range(7)]
    group = pa.array(["a", "b", "c", None, "e", "f", "g"]).dictionary_encode()
    given = pa.table({"text": pa.array(TEXTS).dictionary_encode(), "day": days, "group": group, "list": [[1]] * 7})
    parquet.write_table(given, tmp_path / "a.parquet")
    for target in ("b.parquet", "b.jsonl", "b.csv"):
        assert main([str(run), str(tmp_path / "a.parquet"), "-o", str(tmp_path / target)]) == 0
    found = parquet.read_table(tmp_path / "b.parquet").select(given.column_names)
    assert found.schema.types == given.schema.types and found.to_pylist() == given.to_pylist()
    assert read(tmp_path / "b.jsonl")[1]["day"] == read(tmp_path / "b.csv")[1]["day"] == "2026-01-02"


def test_the_only_text_column_is_taken(run: Path, tmp_path: Path) -> None:
    """Prevents: a question about what is plain."""
    (tmp_path / "a.jsonl").write_text('{"n": 1, "body": "good"}\n{"n": null, "body": "bad", "more": [1]}\n')
    assert main([str(run), str(tmp_path / "a.jsonl"), "-o", str(tmp_path / "b.csv")]) == 0
    assert [(row["n"], row["body"], row["more"]) for row in read(tmp_path / "b.csv")] == [
        ("1", "good", ""),
        ("", "bad", "[1]"),
    ]


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["nowhere", "a.csv", "-o", "b.csv"], "is no folder of a run (there is no such folder)"),
        (["RUN", "none.csv", "-o", "b.csv"], "there is no file"),
        (["RUN", "a.csv", "-o", "b.txt"], "is none of .csv, .tsv, .jsonl, .parquet"),
        (["RUN", "a.csv", "-o", "there.csv"], "exists; add --force to replace it"),
        (["RUN", "a.csv", "-o", "a.csv", "--force"], "is the file that is read"),
        (["RUN", "a.csv", "-o", "none/b.csv", "--encoding", "utf8000"], "there is no encoding 'utf8000'"),
        (["RUN", "a.csv", "-o", "b.csv", "--text", "id,text"], "--text names 2 columns (id, text), and the student"),
        (["RUN", "a.csv", "-o", "b.csv", "--text", "body"], "has no column 'body', only id, text"),
        (["RUN/student", "a.csv", "-o", "b.csv", "--onnx"], "has no model.onnx; write it first with"),
        (["RUN", "a.csv", "-o", "b.csv", "--device", "cuda"], "PyTorch sees no GPU here"),
    ],
)
def test_mistakes_get_one_line(
    arguments: list[str], wanted: str, run: Path, tmp_path: Path, said: Callable[..., str], monkeypatch: Any
) -> None:
    """Prevents: a traceback; a file replaced that nobody gave away."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.csv")
    write(tmp_path / "there.csv")
    assert wanted in said(main, *(argument.replace("RUN", str(run)) for argument in arguments))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "there.csv"]


def test_pairs_and_numbers(save: Callable[..., Path], tmp_path: Path) -> None:
    """Prevents: one text of two; a value that is called a class."""
    folder = save("bert", labels=1, problem_type="regression")
    describe(folder, TextModel, text=["title", "body"], max_length=16)
    (tmp_path / "a.csv").write_text("title,body\nw1,w2\nw2,w1\nw1,w3\n")
    assert main([str(folder), str(tmp_path / "a.csv"), "-o", str(tmp_path / "b.jsonl")]) == 0
    rows = read(tmp_path / "b.jsonl")
    classify = pipeline("text-classification", model=str(folder), function_to_apply="none")
    alone = [classify({"text": row["title"], "text_pair": row["body"]})["score"] for row in rows]
    assert [row["predicted_value"] for row in rows] == pytest.approx(alone, abs=1e-5)
    assert len({row["predicted_value"] for row in rows}) == 3


def test_broken_weights(save: Callable[..., Path], tmp_path: Path, said: Callable[..., str]) -> None:
    """Prevents: the first class as the answer to every row, with a probability that is no number."""
    folder = save("bert", labels=["a", "b"])
    describe(folder, TextModel, text=["text"], max_length=16)
    weights = load_file(folder / "model.safetensors")
    save_file(
        weights | {"classifier.bias": torch.full((2,), torch.nan)}, folder / "model.safetensors", {"format": "pt"}
    )
    line = said(main, folder, write(tmp_path / "a.csv"), "-o", tmp_path / "b.csv")
    assert "the student's answer is not finite; its weights (or their ONNX file) are broken" in line
    assert not (tmp_path / "b.csv").exists()
