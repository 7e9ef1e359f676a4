"""Tags for sentences in a file of any size: each word gets its own, beside what stands there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from rwkd_lightning.predict import __main__ as command
from rwkd_lightning.predict.__main__ import main
from rwkd_lightning.systems.tokens.columns import ColumnFile
from rwkd_lightning.systems.tokens.reader import Fields, read_sentences
from tests.run.test_pipeline_run import finished
from tests.systems.tokens.test_tokens_export import TAGS, alone

SENTENCES = [
    ["Ann", "Lee", "went", "to", "Rome"],
    ["the", "w3"],
    ["Bob"],
    ["w1", "saw", "Eve", "Mae", "in", "Oslo", "Bay", "and", "Bonn"],
    ["a", "w7", "likes", "Kim"],
    ["Unknown", "words"],
    ["and"],
]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks of the seven sentences."""
    monkeypatch.setattr(command, "CHUNK", 3)


def columns(path: Path, sentences: list[list[str]] = SENTENCES) -> Path:
    """Words with a number before and a mark behind them."""
    lines = [[f"{i}\t{word}\tx{i}" for i, word in enumerate(words)] + [""] for words in sentences]
    path.write_text("\n".join(line for part in lines for line in part))
    return path


def write(path: Path) -> Path:
    """The sentences with a number each."""
    rows = [{"id": i, "tokens": words, "more": [i]} for i, words in enumerate(SENTENCES)]
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        columns(path)
    return path


@pytest.fixture(scope="module")
def expected(token_run: Path) -> list[tuple[list[str], list[float]]]:
    """Tags and probabilities by transformers alone."""
    each = [logits.softmax(1).max(1) for logits in alone(token_run / "student", SENTENCES)]
    return [([TAGS[n] for n in tags.tolist()], shares.tolist()) for shares, tags in each]


@pytest.mark.parametrize("source", ["a.conll", "a.jsonl", "a.parquet"])
@pytest.mark.parametrize("target", ["b.conll", "b.jsonl", "b.parquet"])
def test_every_kind_of_file(source: str, target: str, token_run: Path, expected: Any, tmp_path: Path) -> None:
    """Prevents: tags of another sentence or word, columns lost, a probability of another tag."""
    given, to = write(tmp_path / source), tmp_path / target
    option = ["--text", "column_1"] if source == "a.conll" else []
    assert main([str(token_run), str(given), "-o", str(to), "--batch-size", "2", *option]) == 0
    if target == "b.conll":
        lines = [line.split("\t") for line in to.read_text().split("\n")]
        width = 5 if source == "a.conll" else 3
        assert {len(line) for line in lines} == {width, 1} and lines[-1] == [""]
        if source == "a.conll":
            assert [line[:3] for line in lines] == [
                line.split("\t")[:3] for line in (given.read_text() + "\n").split("\n")
            ]
        place = 1 if source == "a.conll" else 0
        found = read_sentences(str(to), "file", Fields(place, -2))
        shares = read_sentences(str(to), "file", Fields(place, -1)).tags
        rows = [(w, t, list(map(float, s))) for w, t, s in zip(found.tokens, found.tags, shares, strict=True)]
    else:
        table = parquet.read_table(to).to_pylist() if target == "b.parquet" else map(json.loads, to.open())
        written = list(table)
        kept = ["tokens", "column_1", "column_2"] if source == "a.conll" else ["id", "tokens", "more"]
        assert [list(row) for row in written] == [[*kept, "predicted_tags", "probability"]] * len(SENTENCES)
        words = "column_1" if source == "a.conll" else "tokens"
        rows = [(row[words], row["predicted_tags"], row["probability"]) for row in written]
    assert [row[0] for row in rows] == SENTENCES
    for (_, tags, sure), (right, share) in zip(rows, expected, strict=True):
        assert tags == right and sure == pytest.approx(share, abs=1e-5)
    assert {tag for right, _ in expected for tag in right} >= {"O", "B-PER", "I-PER", "B-LOC"}
    assert sorted(path.name for path in tmp_path.iterdir()) == [source, target]


@pytest.mark.parametrize(("option", "close"), [("--onnx", 1e-5), ("--int8", 0.2)])
def test_onnx_answers_too(
    option: str, close: float, token_run: Path, token_export: Path, expected: Any, tmp_path: Path
) -> None:
    """Prevents: an option that is taken and changes nothing, or another model."""
    given = write(tmp_path / "a.jsonl")
    for folder in (token_run, token_export):
        to = tmp_path / f"{folder.name}.jsonl"
        assert main([str(folder), str(given), "-o", str(to), option]) == 0
        for row, (_, share) in zip(map(json.loads, to.open()), expected, strict=True):
            assert row["probability"] == pytest.approx(share, abs=close)


def test_columns_stream(token_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents: a file that is read to its end before the first tag is written, so that memory grows with it."""
    events, chunks, answered = [], ColumnFile.chunks, command.answered

    def noted(self: Any, size: int) -> Any:
        for chunk in chunks(self, size):
            events.append(len(chunk.lines))
            yield chunk

    def answering(*arguments: Any) -> Any:
        events.append("answer")
        return answered(*arguments)

    monkeypatch.setattr(ColumnFile, "chunks", noted)
    monkeypatch.setattr(command, "answered", answering)
    given = tmp_path / "a.txt"
    given.write_text("\r\n\r\n".join("\r\n".join(words) for words in SENTENCES))
    assert main([str(token_run), str(given), "-o", str(tmp_path / "b.txt")]) == 0
    assert events == [3, 3, 1, 3, "answer", 3, "answer", 1, "answer"]


def test_the_runs_own_column_and_conllu(tiny: list[str], token_run: Path, tmp_path: Path, expected: Any) -> None:
    """Prevents: words looked for in another column than the training's; comments and contracted words tagged."""
    file = tmp_path / "train.conllu"
    sentences = read_sentences(tiny[1].partition("=")[2], "file", Fields())
    file.write_text(
        "\n".join(
            "\n".join(f"{i}\t{w}\t{t}" for i, (w, t) in enumerate(zip(words, tags, strict=True))) + "\n"
            for words, tags in zip(sentences.tokens, sentences.tags, strict=True)
        )
    )
    finished(
        [*tiny, f"data.train={file}", "data.token_column=1", "weighting=ce", "trainer.max_epochs=1"], tmp_path / "r"
    )
    (tmp_path / "a.conllu").write_text("# text = so\n1-2\tAnnLee\tx\n1\tAnn\tx\n2\tLee\tx\n\n1\tthe\tx\n")
    assert main([str(tmp_path / "r"), str(tmp_path / "a.conllu"), "-o", str(tmp_path / "b.jsonl")]) == 0
    assert [json.loads(line)["tokens"] for line in (tmp_path / "b.jsonl").open()] == [["Ann", "Lee"], ["the"]]


def test_words_that_are_not_read(token_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prevents: a tag of its own for a word that the student has not seen, in silence."""
    (tmp_path / "a.jsonl").write_text(json.dumps({"tokens": ["Ann", "the"] * 10}) + '\n{"tokens": ["Bob"]}\n')
    for to in ("b.jsonl", "b.conll"):
        assert main([str(token_run), str(tmp_path / "a.jsonl"), "-o", str(tmp_path / to)]) == 0
        assert "(2 rows, 5 of their words not read)" in capsys.readouterr().out
    long, short = (json.loads(line) for line in (tmp_path / "b.jsonl").open())
    assert [share is None for share in long["probability"]] == [False] * 15 + [True] * 5
    assert long["predicted_tags"][15:] == ["O"] * 5 and short["probability"][0] is not None
    assert (tmp_path / "b.conll").read_text().split("\n")[15] == "the\tO\t_"


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("a.conll", "Ann x\nran\n", "has 1 columns in line 2, line 1 has 2; give each word as many"),
        ("a.conll", "\n\n", "has no sentence; give one or more"),
        ("a.conll", "Ann\n\n\n\tx\n", "has 2 columns in line 4, line 1 has 1"),
        (
            "a.conll",
            "Ann\tx\n\n\tx\n",
            "has no list of words in tokens in line 3; drop such rows, or add --allow-blank",
        ),
        ("a.conll", b"Ann x\nna\xefve y\n", r"is not utf-8 in line 2 (bytes b'\xef'); say which encoding"),
        ("a.jsonl", '{"tokens": "Ann ran"}\n', "column 'tokens' holds string, and no list of words (lines 1 to 1)"),
        ("a.jsonl", '{"tokens": []}\n', "has no list of words in tokens in line 1"),
        ("a.jsonl", '{"tokens": ["a"]}\n{"tokens": ["a", " "]}\n', "has no list of words in tokens in line 2"),
        ("a.jsonl", '{"tokens": ["a"]}\n{"tokens": [1]}\n', "a field has values of several types"),
        ("a.jsonl", '{"tokens": ["a"], "probability": 1}\n', "has a column 'probability' already; give --prefix"),
        ("a.csv", "tokens\na\n", "column 'tokens' holds string, and no list of words"),
        ("a.json", "", "is none of .csv, .tsv, .jsonl, .parquet"),
    ],
)
def test_bad_files_are_named_before_any_answer(
    name: str, content: Any, wanted: str, token_run: Path, tmp_path: Path, said: Callable[..., str], monkeypatch: Any
) -> None:
    """Prevents: a file that fails at its last row after hours; a line that nobody finds; a sentence left out."""
    given = tmp_path / name
    given.write_bytes(content if isinstance(content, bytes) else content.encode())
    monkeypatch.setattr(command, "answered", None)
    assert wanted in said(main, token_run, given, "-o", tmp_path / "b.conll")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_ways_out_of_bad_files(token_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prevents: a remedy that a message names and that does not work."""
    rows = [{"tokens": []}, {"tokens": ["Ann", "ran"]}, {"tokens": None}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--allow-blank", "--prefix", "my_"]
    for to in ("b.jsonl", "b.conll"):
        assert main([str(token_run), str(tmp_path / "a.jsonl"), "-o", str(tmp_path / to), *options]) == 0
    assert "(3 rows, 2 without a list of words and so without an answer)" in capsys.readouterr().out
    found = [json.loads(line)["my_predicted_tags"] for line in (tmp_path / "b.jsonl").open()]
    assert found[0] is None and len(found[1]) == 2 and found[2] is None
    assert [line.split("\t")[0] for line in (tmp_path / "b.conll").read_text().split("\n")] == ["Ann", "ran", "", ""]
    (tmp_path / "c.conll").write_bytes("naïve\n".encode("latin-1"))
    assert (
        main([str(token_run), str(tmp_path / "c.conll"), "-o", str(tmp_path / "d.conll"), "--encoding", "latin-1"]) == 0
    )
    assert (tmp_path / "d.conll").read_text().startswith("naïve\t")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["RUN", "none.conll", "-o", "b.conll"], "there is no file"),
        (["RUN", "a.conll", "-o", "b.json"], "is none of .csv, .tsv, .jsonl, .parquet"),
        (["RUN", "a.conll", "-o", "there.conll"], "exists; add --force to replace it"),
        (["RUN", "a.conll", "-o", "b.conll", "--encoding", "utf8000"], "there is no encoding 'utf8000'"),
        (["RUN", "a.conll", "-o", "b.conll", "--text", "column_7"], "has no column 'column_7', only tokens, column_1"),
        (["RUN", "tab.jsonl", "-o", "b.conll"], "'New\\tYork' holds a tab or a line break, and a column cannot"),
        (["RUN/..", "a.conll", "-o", "b.conll"], "is no folder of a run"),
    ],
)
def test_mistakes_get_one_line(
    arguments: list[str], wanted: str, token_run: Path, tmp_path: Path, said: Callable[..., str], monkeypatch: Any
) -> None:
    """Prevents: a traceback; a file replaced that nobody gave away; half a file."""
    monkeypatch.chdir(tmp_path)
    columns(tmp_path / "a.conll")
    columns(tmp_path / "there.conll")
    (tmp_path / "tab.jsonl").write_text('{"tokens": ["New\\tYork"]}\n')
    assert wanted in said(main, *(argument.replace("RUN", str(token_run)) for argument in arguments))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.conll", "tab.jsonl", "there.conll"]
