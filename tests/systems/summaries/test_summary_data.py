"""Documents with summaries, as they are read, cut and refused."""

from __future__ import annotations

import gzip
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from rwkd_lightning.systems.summaries.api_docs import api_docs, header
from rwkd_lightning.systems.summaries.data import lead, load_summaries
from rwkd_lightning.systems.summaries.rouge import figures, rouge
from rwkd_lightning.utils.errors import UserError

REST = "The rest of the documentation says how, with more words than sixty characters have."


def write_service(root: Path, name: str, version: str, operations: dict[str, str], **shapes: str) -> None:
    folder = root / name / version
    folder.mkdir(parents=True)
    model = {
        "metadata": {"serviceId": name.upper()},
        "operations": {key: {"documentation": text} for key, text in operations.items()},
        "shapes": {key: {"type": "structure", "documentation": text} for key, text in shapes.items()}
        | {"Plain": {"type": "string", "documentation": f"<p>Not a structure at all. {REST}</p>"}},
    }
    (folder / "service-2.json.gz").write_bytes(gzip.compress(json.dumps(model).encode()))


def test_api_texts_are_cut_into_documents_and_summaries(tmp_path: Path) -> None:
    """Prevents: a summary that its document holds, an old version's text, two rows of one text."""
    write_service(tmp_path, "aa", "2012-01-01", {"Old": f"<p>Removes an old thing. {REST}</p>"})
    write_service(
        tmp_path,
        "aa",
        "2015-01-01",
        {
            "AddDBPermission": f"<p>Adds a <i>permission</i> to a queue&#39;s list. {REST}</p>",
            "Short": "<p>Removes a short thing. Too short.</p>",
            "Twice": f"<p>Adds a permission to a queue's list. {REST.replace('how', 'why')}</p>",
            "Gone": f"<p>This operation is not supported. {REST.replace('how', 'where')}</p>",
        },
        Thing=f"<p>Describes a thing of the service. {REST.replace('how', 'when')}</p>",
    )
    assert api_docs(tmp_path) == [
        ("AA", f"AA: add db permission. {REST}", "Adds a permission to a queue's list."),
        ("AA", f"AA: thing. {REST.replace('how', 'when')}", "Describes a thing of the service."),
    ]
    assert header(f"AA: add db permission. {REST}") == "AA: add db permission"
    with pytest.raises(UserError, match="no descriptions of services"):
        api_docs(tmp_path / "aa")
    (tmp_path / "aa/2015-01-01/service-2.json.gz").write_bytes(b"x")
    with pytest.raises(UserError, match=r"service-2.json.gz is no description"):
        api_docs(tmp_path)


@pytest.mark.skipif(find_spec("botocore") is None, reason="needs botocore")
def test_the_offline_texts_are_split_by_service() -> None:
    """Prevents: near-copies of one service in train and test."""
    data = load_summaries()
    families = [set(split.families) for split in data.splits.values()]
    assert sum(map(len, families)) == len(set.union(*families)) > 300
    sizes = {name: len(split) for name, split in data.splits.items()}
    assert 9_000 < sum(sizes.values()) < 20_000 and min(sizes.values()) > 0.05 * sum(sizes.values())
    texts = [text for split in data.splits.values() for text in split.summaries]
    assert len(set(texts)) == len(texts)


def write(folder: Path, rows: list[dict[str, Any]], name: str = "train.jsonl") -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(map(json.dumps, rows)))
    return str(folder)


def rows(count: int = 60, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"document": f"Document {i} says this. And that, too.", "summary": f"number {i}"} for i in range(start, count)
    ]


def test_files_of_ones_own(tmp_path: Path) -> None:
    """Prevents: a split that is cut although there is a file of it; training rows that the test has, too."""
    write(tmp_path / "a", rows())
    write(tmp_path / "a", rows(75, 55), "test.jsonl")
    data = load_summaries(str(tmp_path / "a"))
    assert len(data.splits["test"]) == 20 and max(data.splits["train"].idx) < 55
    assert sum(len(data.splits[name]) for name in ("train", "meta", "validation")) == 55
    table = ["text,short", *(f"Document {i} says. This too.,n {i}" for i in range(40))]
    (tmp_path / "b.csv").write_text("\n".join(table))
    data = load_summaries(str(tmp_path / "b.csv"), "text", "short")
    assert sum(map(len, data.splits.values())) == 40 and data.baselines["lead"]("A b. C d.") == "A b."
    grouped = [{**row, "family": f"f{i // 6}"} for i, row in enumerate(rows())]
    data = load_summaries(write(tmp_path / "c", grouped), family="family")
    families = [set(split.families) for split in data.splits.values()]
    assert sum(map(len, families)) == 10


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"document": "  ", "summary": "a"}, r"train.jsonl', line 3 has an empty 'document'; give each row a document"),
        ({"document": "a b c", "summary": ""}, r"line 3 has an empty 'summary'"),
        ({"document": 3, "summary": "a"}, r"line 3 has 3 as its 'document'"),
        ({"document": "a b c"}, r"line 3 has None as its 'summary'"),
        ({"document": "x" * 1_000_001, "summary": "a"}, r"line 3 has a 'document' of 1,000,001 characters"),
    ],
)
def test_bad_rows_are_named(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Prevents: an empty document, or an endless line, that is found when an epoch is half over."""
    with pytest.raises(UserError, match=message):
        load_summaries(write(tmp_path / "a", [*rows(2), row, *rows(9, 3)]))


def test_files_that_are_not_there_or_hold_other_things_are_named(tmp_path: Path) -> None:
    """Prevents: columns that are swapped, unnoticed; a directory of other files."""
    swapped = [{"document": row["summary"], "summary": row["document"]} for row in rows()]
    with pytest.raises(UserError, match=r"longer than the 'document'.*data.document=summary and data.summary=document"):
        load_summaries(write(tmp_path / "a", swapped))
    with pytest.raises(UserError, match=r"has no column 'text'; .*document, summary"):
        load_summaries(write(tmp_path / "b", rows()), document="text")
    with pytest.raises(UserError, match=r"holds no train.jsonl"):
        load_summaries(write(tmp_path / "c", rows(), "other.jsonl"))
    write(tmp_path / "b", rows(), "train.csv")
    with pytest.raises(UserError, match=r"holds train.csv and train.jsonl"):
        load_summaries(str(tmp_path / "b"))
    with pytest.raises(UserError, match=r"too few to cut a meta split"):
        load_summaries(write(tmp_path / "d", rows(1)))


def test_a_few_long_summaries_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Prevents: a refusal for a row that is merely odd, or silence about it."""
    path = write(tmp_path / "a", [*rows(), {"document": "Brief.", "summary": "longer than that"}])
    with caplog.at_level("WARNING"):
        load_summaries(path)
    assert "line 61 and 0 other rows have a summary longer than the document" in caplog.text


def test_rouge_is_rouge_scores() -> None:
    """Prevents: figures that no other evaluation has."""
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rouge1", "rouge2", "rougeL"])
    pairs = [
        ("the lamp shines", "A lamp, shining brightly"),
        ("creates a role", "Creates an IAM role for the user-pool."),
        ("", "nothing"),
        ("Zäune über x_1 3.5", "zäune x_1 3.5 uber"),
        ("a b a b c", "b a c a b"),
    ]
    found = rouge(*map(list, zip(*pairs, strict=True)))
    for i, (text, reference) in enumerate(pairs):
        expected = scorer.score(reference, text)
        for key, values in found.items():
            assert float(values[i]) == pytest.approx(expected[key].fmeasure, abs=1e-6), (key, text)


def test_figures_beside_rouge() -> None:
    """Prevents: a share of the wrong text."""
    found = figures(["a b c a b c", "x"], ["a b c", "x y"], ["a b d", "x"])
    assert found == {
        "length_ratio": pytest.approx(1.25),
        "novel_bigrams": pytest.approx(0.6),
        "repeated_trigrams": 0.25,
    }
    assert lead("  One, two. Three.") == "One, two." and lead("a\nb") == "a"
