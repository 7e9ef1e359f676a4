"""Reading collections, cutting them, and ranking metrics against trec_eval's."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from rwkd_lightning.systems.retrieval.beir import load_beir
from rwkd_lightning.systems.retrieval.bm25 import BM25
from rwkd_lightning.systems.retrieval.collection import Collection, Queries, cut
from rwkd_lightning.systems.retrieval.corruption import deal_documents, deal_queries
from rwkd_lightning.systems.retrieval.cwe import grouped, load_cwe
from rwkd_lightning.systems.retrieval.metrics import per_query, rankings
from rwkd_lightning.systems.retrieval.mining import hardest, known, negatives_by
from rwkd_lightning.utils.errors import UserError


def test_the_packaged_collection_is_what_its_page_says() -> None:
    """Prevents: queries that name the weakness they ask for, and sentences about one CVE on both sides of a cut."""
    collection = load_cwe()
    assert len(collection.ids) == 938
    pairs = {name: len(queries.pairs) for name, queries in collection.splits.items()}
    assert pairs == {"train": 2004, "validation": 247, "test": 510}
    assert not any("CWE-" in text for queries in collection.splits.values() for text in queries.texts)
    groups = {name: set(queries.groups) for name, queries in collection.splits.items()}
    assert not groups["train"] & groups["test"] and not groups["train"] & groups["validation"]


def test_queries_that_share_a_reference_are_one_group() -> None:
    """Prevents: a group that is joined by a third query and then cut in two."""
    found = grouped({"a": {"1"}, "b": {"2"}, "c": {"1", "2"}, "d": {"3"}})
    assert found == {"a": "1", "b": "1", "c": "1", "d": "3"}


def test_every_shape_of_beirs_layout_reads_the_same(beir: Path, tmp_path: Path) -> None:
    """Prevents: packed files, TREC's columns, missing headers or titles that change what is read."""
    plain = load_beir(str(beir))
    assert plain.texts[0].startswith("s0 ") and set(plain.splits) == {"train", "validation", "test"}
    other = tmp_path / "other"
    shutil.copytree(beir, other)
    (other / "corpus.jsonl.gz").write_bytes(gzip.compress((beir / "corpus.jsonl").read_bytes()))
    (other / "corpus.jsonl").unlink()
    lines = (beir / "qrels/train.tsv").read_text().splitlines()[1:]
    trec = [f"{q} 0 {d} {grade}" for q, d, grade in (line.split("\t") for line in lines)]
    (other / "qrels/train.tsv").write_text(
        "\n".join([*trec, f"{trec[0].split()[0]} 0 d7 0", ""])
    )  # judged, not relevant
    found = load_beir(str(other))
    assert found.fingerprint() == plain.fingerprint()
    assert found.splits["train"].fingerprint() == plain.splits["train"].fingerprint()


def test_equal_texts_of_queries_stay_in_one_split() -> None:
    """Prevents: a query of the meta split that was trained on under another identifier."""
    texts = [f"q{i // 2}" for i in range(40)]
    queries = Queries([str(i) for i in range(40)], texts, [{0: 1.0}] * 40)
    for seed in range(5):
        rest, taken = cut(queries, 0.3, seed, "meta")
        assert len(taken) == 12 and not set(rest.texts) & set(taken.texts)
    with pytest.raises(UserError, match=r"leave 0 for the split 'meta'.*data.meta_fraction"):
        cut(queries, 0.01, 0, "meta")


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("corpus.jsonl", '{"_id": "d0", "text": "again"}', r"corpus.jsonl: _id 'd0' stands in line 1 and in line 61"),
        ("corpus.jsonl", "{broken", r"corpus.jsonl, line 61 is not JSON: '\{broken'"),
        ("corpus.jsonl", '{"_id": "x"}', r'line 61 is no \{"_id": \.\.\., "text": \.\.\.\}'),
        ("corpus.jsonl", '{"_id": "x", "text": 5}', "line 61: text is 5 and no text"),
        ("qrels/train.tsv", "q0\td99\t1", "judges the document 'd99', which is not in corpus.jsonl"),
        ("qrels/train.tsv", "q999\td0\t1", "judges the query 'q999', which is not in queries.jsonl"),
        ("qrels/train.tsv", "q1\td0", "has 2 columns; it needs query, document and relevance"),
        ("qrels/train.tsv", "q1\td0\thigh", "the relevance 'high' is no number"),
    ],
)
def test_a_mistake_is_named_with_its_line(file: str, line: str, message: str, beir: Path, tmp_path: Path) -> None:
    """Prevents: hours of training on a collection that is not what its files say."""
    copy = tmp_path / "copy"
    shutil.copytree(beir, copy)
    with (copy / file).open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(UserError, match=message):
        load_beir(str(copy))


@pytest.mark.parametrize(
    ("missing", "message"),
    [("corpus.jsonl", "has no corpus.jsonl; give a directory"), ("qrels/test.tsv", r"has no qrels/test.tsv, only dev")],
)
def test_a_missing_file_is_named(missing: str, message: str, beir: Path, tmp_path: Path) -> None:
    """Prevents: a search for the file in the wrong place."""
    copy = tmp_path / "copy"
    shutil.copytree(beir, copy)
    (copy / missing).unlink()
    with pytest.raises(UserError, match=message):
        load_beir(str(copy))


def test_a_relevant_document_without_text_is_not_trained_on(beir: Path, tmp_path: Path) -> None:
    """Prevents: a student that learns that the empty text answers a query; the scores count it all the same."""
    copy = tmp_path / "copy"
    shutil.copytree(beir, copy)
    with (copy / "corpus.jsonl").open("a") as stream:
        stream.write(json.dumps({"_id": "empty", "text": " "}) + "\n")
    for split in ("train", "test"):
        with (copy / f"qrels/{split}.tsv").open("a") as stream:
            stream.write("q2\tempty\t1\n")
    found, before = load_beir(str(copy)), load_beir(str(beir))
    assert len(found.splits["train"].pairs) == len(before.splits["train"].pairs)
    assert len(found.splits["test"].pairs) == len(before.splits["test"].pairs) + 1


def test_scores_are_those_of_trec_eval() -> None:
    """Prevents: gains, ties or recalls that no published table uses."""
    ir_measures = pytest.importorskip("ir_measures")
    rng = np.random.default_rng(0)
    ids = [str(n) for n in rng.permutation(300)]
    scores = rng.integers(0, 25, (40, 300)).astype(np.float32)  # many ties
    relevant = [dict.fromkeys(rng.choice(300, 1 + i % 14, replace=False).tolist(), 0.0) for i in range(40)]
    relevant = [{d: float(rng.integers(1, 4)) for d in grades} for grades in relevant]
    measures = [ir_measures.nDCG @ 10, ir_measures.R @ 10, ir_measures.R @ 100]
    qrels = {str(q): {ids[d]: int(g) for d, g in grades.items()} for q, grades in enumerate(relevant)}
    run = {str(q): {ids[d]: float(s) for d, s in enumerate(row)} for q, row in enumerate(scores)}
    truth = ir_measures.calc_aggregate(measures, qrels, run)
    mine = {name: values.mean() for name, values in per_query(rankings(scores, ids), relevant).items()}
    assert [mine[name] for name in ("ndcg@10", "recall@10", "recall@100")] == pytest.approx(
        [truth[m] for m in measures], abs=1e-9
    )
    # RR@10 has ties in another order there, RR is trec_eval's
    reciprocal = [found.value for found in ir_measures.iter_calc([ir_measures.RR], qrels, run)]
    assert mine["mrr@10"] == pytest.approx(np.mean([r if r > 0.099 else 0.0 for r in reciprocal]), abs=1e-9)


def test_a_ranking_without_a_hit_scores_zero() -> None:
    """Prevents: a reciprocal rank of 1 where nothing is found."""
    found = per_query(np.array([[0, 1, 2]]), [{5: 1.0}])
    assert {name: values.item() for name, values in found.items()} == dict.fromkeys(found, 0.0)


def test_mined_negatives_are_never_relevant(beir: Path) -> None:
    """Prevents: a student that is taught away from the documents it should find."""
    collection = load_beir(str(beir))
    queries = collection.splits["train"]
    scores = BM25(collection.texts).scores(queries.texts)
    own = [scores[q, d] for q, d in queries.pairs]
    assert np.mean(own) > scores.mean() + 2 * scores.std()  # it finds by words
    excluded = known(queries.relevant, queries.texts, 60)
    mined = hardest(scores, excluded, 10)
    for row, grades in zip(mined, queries.relevant, strict=True):
        assert not set(row) & set(grades) and len(set(row)) == 10
    others = [s for row, g in zip(scores, queries.relevant, strict=True) for d, s in enumerate(row) if d not in g]
    assert np.take_along_axis(scores, mined, 1).mean() > np.mean(others)
    with pytest.raises(UserError, match=r"only 58 documents that may be its negatives.*data.negative_depth=58"):
        hardest(scores, excluded, 60)


def test_a_margin_leaves_out_what_the_teacher_takes_for_relevant(beir: Path) -> None:
    """Prevents: negatives that are relevant and unjudged, and those relevant to another query of the same text."""
    read = load_beir(str(beir))
    splits = {**read.splits, "meta": read.splits["validation"]}
    collection = Collection(read.name, read.ids, read.texts, splits)
    scores = {name: np.random.default_rng(0).random((len(splits[name]), 60)) for name in ("train", "meta")}
    teacher = {name: torch.from_numpy(table) for name, table in scores.items()}
    plain = negatives_by(scores, collection, 5)
    for name, mined in negatives_by(scores, collection, 1, teacher, -0.1).items():
        for row, table, grades, first in zip(mined, scores[name], splits[name].relevant, plain[name], strict=True):
            limit = min(table[d] for d in grades) + 0.1
            assert table[row[0]] <= limit
            assert row[0] == first[0] or table[first[0]] > limit
    same = known([{1: 1.0}, {2: 1.0}, {3: 1.0}], ["a", "b", "a"], 5)
    assert [np.flatnonzero(row).tolist() for row in same] == [[1, 3], [2], [1, 3]]


def test_corruptions_hit_the_rows_that_they_flag(beir: Path) -> None:
    """Prevents: flags of sound rows, by which a method that finds nothing would seem to find something."""
    queries = load_beir(str(beir)).splits["train"]
    pairs = queries.pairs
    dealt, flipped = deal_documents(queries, pairs, 0.4, 3)
    assert 0.3 * len(pairs) < flipped.sum() <= round(0.4 * len(pairs))
    for (query, document), (same, old), flag in zip(dealt, pairs, flipped, strict=True):
        assert query == same and (document not in queries.relevant[query] if flag else document == old)
    taught, corrupted = deal_queries(pairs, 0.4, 3)
    assert list(corrupted) == [t != q for t, (q, _) in zip(taught, pairs, strict=True)]
    assert not np.array_equal(flipped, corrupted)
