"""The commands that index a corpus and search it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from rwkd_lightning.systems.retrieval import index, scoring, search
from rwkd_lightning.systems.retrieval.encoder import load_transformer
from rwkd_lightning.systems.retrieval.sentence_folder import write_student
from rwkd_lightning.systems.retrieval.student import BiEncoder
from rwkd_lightning.systems.retrieval.vectors import Index
from rwkd_lightning.systems.text.models.loading import load_tokenizer
from rwkd_lightning.utils.errors import UserError


@pytest.fixture(scope="module")
def student(transformer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained one, as a run would leave it."""
    folder = tmp_path_factory.mktemp("run") / "student"
    torch.manual_seed(0)
    network = BiEncoder(load_transformer(str(transformer)), 12)
    torch.nn.init.normal_(network.projection.weight)
    write_student(folder, network, load_tokenizer(str(transformer)), 12, 16)
    return folder


def test_a_corpus_is_indexed_in_parts_and_searched_exactly(
    student: Path, beir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prevents: documents that are lost between two parts, or at the end of one."""
    monkeypatch.setattr(index, "PART", 16)
    assert index.main([str(student), str(beir / "corpus.jsonl"), "--to", str(tmp_path / "index")]) == 0
    assert "60 documents in" in capsys.readouterr().out
    found = Index(tmp_path / "index")
    assert [len(part) for part in found.parts] == [16, 16, 16, 12] and found.ids == [f"d{i}" for i in range(60)]
    searcher = search.Searcher(student, tmp_path / "index")
    together = torch.cat(found.parts).float()
    hits = searcher(["s3 w1", "s7"], 20)
    vectors = BiEncoder.vectors(searcher.student, batch(searcher, ["s3 w1", "s7"]), "query")
    scores, places = (vectors @ together.T).topk(20)
    assert [[name for name, _ in row] for row in hits] == [[f"d{p}" for p in row] for row in places.tolist()]
    assert [[s for _, s in row] for row in hits] == [pytest.approx(row, abs=1e-5) for row in scores.tolist()]


def batch(searcher: search.Searcher, queries: list[str]) -> Any:
    return search.Texts(queries, searcher.tokenizer, 12, "query").batch(range(len(queries)))


def test_an_interrupted_index_goes_on_with_the_next_part(
    student: Path, beir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prevents: hours of encoding that begin again, and a half index that is searched."""
    monkeypatch.setattr(index, "PART", 16)
    calls: list[str] = []
    real = scoring.encode

    def encode(*arguments: Any) -> torch.Tensor:
        calls.append(arguments[-1])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(index, "encode", encode)
    arguments = [str(student), str(beir / "corpus.jsonl"), "--to", str(tmp_path / "cut")]
    assert index.main(arguments) == 130
    with pytest.raises(UserError, match="holds no finished index"):
        Index(tmp_path / "cut")
    assert index.main(arguments) == 0
    assert calls == [f"documents {a} to {b}" for a, b in ((0, 16), (16, 32), (32, 48), (32, 48), (48, 60))]
    assert index.main([*arguments[:3], str(tmp_path / "whole")]) == 0
    assert torch.equal(torch.cat(Index(tmp_path / "cut").parts), torch.cat(Index(tmp_path / "whole").parts))


def test_a_query_is_answered_with_the_texts(
    student: Path, beir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prevents: an answer that nobody can read, or a machine cannot."""
    corpus = str(beir / "corpus.jsonl")
    assert index.main([str(student), corpus, "--to", str(tmp_path / "index")]) == 0
    arguments = [str(student.parent), "s3 w1", "--index", str(tmp_path / "index"), "--top", "2"]
    capsys.readouterr()
    assert search.main([*arguments, "--corpus", corpus]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "s3 w1" and len(lines) == 3 and " s" in lines[1]
    assert search.main([*arguments, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["documents"]) == 2


def test_mistakes_of_the_commands_are_told(
    student: Path, transformer: Path, beir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prevents: a search with the vectors of another model, and an index over other files."""
    corpus = str(beir / "corpus.jsonl")
    assert index.main([str(student), corpus, "--to", str(tmp_path / "index")]) == 0
    other = tmp_path / "other/student"
    shutil.copytree(student, other)
    settings = json.loads((other / "retrieval.json").read_text())
    (other / "retrieval.json").write_text(json.dumps({**settings, "query_length": 8}))
    for command, arguments, message in (
        (search, [str(other), "s1", "--index", str(tmp_path / "index")], "was made by another student"),
        (search, [str(student), "s1", "--index", str(tmp_path)], "holds no finished index; give RUN/index"),
        (search, [str(student), "s1", "--index", str(tmp_path / "index"), "--top", "0"], "--top=0; give 1 or more"),
        (search, [str(transformer), "s1"], "holds no student of task=retrieval"),
        (index, [str(student), corpus, "--to", str(beir)], "holds something else; name a new folder"),
        (index, [str(other), corpus, "--to", str(tmp_path / "index")], "holds something else"),
        (index, [str(student), str(beir / "none.jsonl"), "--to", str(tmp_path / "a")], "is not a file"),
    ):
        assert command.main(arguments) == 1
        assert message in capsys.readouterr().err
