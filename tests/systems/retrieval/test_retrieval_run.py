"""Whole runs of retrieval on tiny data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch

from rwkd_lightning.report import rows as scored
from rwkd_lightning.run.build import weighting_of
from rwkd_lightning.systems.retrieval.beir import load_beir
from rwkd_lightning.systems.retrieval.late_folder import read_teacher
from rwkd_lightning.systems.retrieval.sentence_folder import read_student
from rwkd_lightning.systems.retrieval.tokens import Texts
from rwkd_lightning.systems.retrieval.vectors import Index
from rwkd_lightning.utils.errors import UserError
from tests import shipped_methods
from tests.run.test_pipeline_run import config, finished
from tests.run.test_resume import check_same, power_cut

REFUSED = ("tgeo", "wls", "teacher_confidence", "annealing_kd")
METHODS = sorted({*shipped_methods.METHODS} - {*REFUSED})


@pytest.mark.parametrize("method", METHODS)
def test_every_method_leaves_a_whole_retrieval_run(method: str, tiny: list[str], tmp_path: Path) -> None:
    """Prevents: a method that trains on candidates, but whose results cannot be loaded or read."""
    folder = tmp_path / method
    result = finished(tiny, folder, f"weighting={method}", "data.label_noise=0.4", "data.teacher_noise=0.4")
    assert json.loads((folder / "metrics.json").read_text()) == result
    assert (result["task"], result["metric"]) == ("tiny", "ndcg@10")
    for metric, score in result["student"]["test"].items():  # again, from the rows that the run leaves
        assert scored.read(folder, "test", metric, score) is not None
    composed = config([*tiny, f"weighting={method}"])
    assert (result["cost"]["meta_steps"] > 0) == weighting_of(composed).needs_influence
    table = pyarrow.parquet.read_table(folder / "weights.parquet").to_pydict()
    w = torch.tensor([table[f"w_{term}"] for term in composed.terms])
    assert bool(w.isfinite().all()) and bool((w > 0).any()) and set(table["visits"]) == {2}
    assert sum(table["label_flipped"]) > 0 and sum(table["teacher_corrupted"]) > 0


def test_grades_weigh_the_rows(tiny: list[str], beir: Path, tmp_path: Path) -> None:
    """Prevents: `weighting=given` without a way to give weights; grades that go to other rows."""
    data = tmp_path / "graded"
    shutil.copytree(beir, data)
    lines = (data / "qrels/train.tsv").read_text().splitlines()
    graded = [line[:-1] + str(1 + number % 3) for number, line in enumerate(lines[1:])]
    (data / "qrels/train.tsv").write_text("\n".join([lines[0], *graded]) + "\n")
    options = ["weighting=given", "data.weight=relevance", f"data.path={data}", "trainer.max_epochs=1"]
    finished(tiny, tmp_path / "run", *options)
    w = pyarrow.parquet.read_table(tmp_path / "run/weights.parquet").to_pydict()
    shares = {round(a + b, 4) for a, b in zip(w["w_contrastive"], w["w_kd"], strict=True)}
    assert shares == {1.0, 2.0, 3.0}
    with pytest.raises(UserError, match="data.weight"):
        finished(tiny, tmp_path / "none", "weighting=given")


@pytest.mark.parametrize("meta", ["projection", "all"])
@pytest.mark.parametrize("width", ["null", "4"])
def test_vectors_of_the_teacher_teach(meta: str, width: str, tiny: list[str], tmp_path: Path) -> None:
    """Prevents: a map that is not trained, vectors of other texts, a term that the projection cannot see."""
    options = ["terms=[contrastive,kd,embedding]", f"meta={meta}", f"pair.student.width={width}", "meta.start=0"]
    finished(tiny, tmp_path / "run", *options, "data.teacher_noise=0.3")
    table = pyarrow.parquet.read_table(tmp_path / "run/weights.parquet").to_pydict()
    for column in ("loss_embedding", "w_embedding", "influence_embedding"):
        values = torch.tensor([torch.nan if x is None else x for x in table[column]])
        assert values[values.isfinite()].std() > 0, column


@pytest.mark.parametrize("method", REFUSED)
def test_methods_that_read_classes_are_refused_for_candidates(method: str, tiny: list[str], tmp_path: Path) -> None:
    """Prevents: a method that takes a candidate for a class."""
    with pytest.raises(UserError, match=r"use `?weighting="):
        finished(tiny, tmp_path / "run", f"weighting={method}")


@pytest.fixture(scope="module")
def whole(
    beir: Path, transformer: Path, retrieval_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A run with a student of the teacher's weights and a narrower map."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    tiny = [
        "task=retrieval",
        f"data.path={beir}",
        f"pair.teacher.path={transformer}",
        "pair.student.path=teacher",
        "pair.student.width=12",
        "pair.teacher.width=16",
        "pair.teacher.epochs=6",
        "pair.teacher.lr=5e-3",
        "optimizer.lr=5e-3",
        "data.query_length=12",
        "data.document_length=16",
        "data.batch_size=16",
        "data.negative_depth=10",
        "trainer.max_epochs=8",
        "trainer.accelerator=cpu",
        f"cache_dir={retrieval_cache}",
        "weighting=kd",
    ]
    return folder, finished(tiny, folder)


def test_a_run_learns_and_tells_what_it_is_beside(whole: tuple[Path, dict[str, Any]]) -> None:
    """Prevents: scores of another split or table than they are called after."""
    _, result = whole
    zero, student = result["baselines"]["zero-shot"]["test"], result["student"]["test"]
    assert student["ndcg@10"] > zero["ndcg@10"] + 0.1
    assert result["teacher"]["test"]["ndcg@10"] > zero["ndcg@10"]
    assert 0 < result["baselines"]["BM25"]["test"]["ndcg@10"] <= 1
    assert result["index"]["student_bytes"] == 2 * 60 * 12
    assert set(result["meta"]) == {"candidate_mrr"}


def test_the_files_of_a_run_are_those_of_other_tools(whole: tuple[Path, dict[str, Any]], beir: Path) -> None:
    """Prevents: vectors, an index or a run file that say other things than the table."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    ir_measures = pytest.importorskip("ir_measures")
    folder, result = whole
    collection = load_beir(str(beir))
    student, tokenizer, settings = read_student(folder / "student")
    texts = Texts(collection.texts, tokenizer, settings["document_length"], "document")
    mine = student.vectors(texts.batch(range(60)), "document").detach()
    theirs = sentence_transformers.SentenceTransformer(str(folder / "student"), device="cpu")
    encoded = theirs.encode(collection.texts, convert_to_tensor=True)
    torch.testing.assert_close(mine, encoded, atol=1e-5, rtol=1e-5)
    index = Index(folder / "index")
    assert index.ids == collection.ids
    torch.testing.assert_close(index.parts[0].float(), mine, atol=1e-3, rtol=1e-3)
    run = ir_measures.read_trec_run(str(folder / "run.test.trec"))
    test = collection.splits["test"]
    qrels = {
        query: {collection.ids[d]: int(g) for d, g in grades.items()}
        for query, grades in zip(test.ids, test.relevant, strict=True)
    }
    found = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, run)
    assert found[ir_measures.nDCG @ 10] == pytest.approx(result["student"]["test"]["ndcg@10"], abs=1e-6)
    questions = theirs.encode(test.texts, convert_to_tensor=True)
    best = [hits[0][0] for hits in index.search(questions, 3)]
    expected = [collection.ids[d] for d in np.asarray((questions @ encoded.T).argmax(1))]
    assert np.mean([a == b for a, b in zip(best, expected, strict=True)]) > 0.9  # float16 may change a tie


@pytest.mark.parametrize("method", ["rwkd", "l2rw"])
def test_an_interrupted_retrieval_run_ends_as_if_it_had_not_been(
    method: str, tiny: list[str], tmp_path: Path, last: dict[str, dict[str, Any]]
) -> None:
    """Prevents: a bank, or negatives, that a checkpoint loses."""
    arguments = [*tiny, f"weighting={method}", "trainer.log_every_n_steps=1"]
    finished(arguments, tmp_path / "whole")
    with power_cut(5, True):
        finished(arguments, tmp_path / "cut", "checkpoint.steps=1")
    finished(arguments, tmp_path / "cut")
    check_same(tmp_path / "whole", tmp_path / "cut", last)


@pytest.mark.parametrize("meta", ["all", "last_block"])
def test_other_meta_steps_of_retrieval(meta: str, tiny: list[str], tmp_path: Path) -> None:
    """Prevents: a θ whose outputs cannot be differentiated where documents are shared."""
    terms = "terms=[contrastive,kd,margin_mse,reverse]"
    result = finished(tiny, tmp_path / "run", f"meta={meta}", "trainer.max_epochs=1", terms)
    assert result["cost"]["meta_steps"] > 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["terms=[contrastive,kd,margin_mse]", "data.negatives=none"], r"margin_mse.*no mined negatives"),
        (["data.negatives_each=11"], r"negatives_each=11 asks.*give data.negative_depth=11"),
        (["meta=bank"], r"a student of vectors has none; use meta=projection"),
        (["trainer.accumulate=2"], r"trainer.accumulate=2: a query is compared with the documents of its batch"),
        (["trainer.devices=2", "trainer.strategy=ddp"], r"makes 2 processes.*use trainer.devices=1"),
        (["data.document_length=64"], r"data.document_length is 64; give 4 to 32 tokens"),
        (["data.negative_depth=59"], r"only 58 documents that may be its negatives"),
        (["data.negatives=/nowhere"], "nowhere"),
        (["pair.teacher.negatives=teacher"], r"pair.teacher.negatives=teacher.*of the teacher's own"),
        (["data.path=/nowhere"], "nowhere"),
        (["terms=[ce,kd]"], r"'ce' is for classes, and task=retrieval is of candidates"),
    ],
)
def test_a_mistake_is_told_before_the_teacher_is_trained(
    overrides: list[str], message: str, tiny: list[str], tmp_path: Path
) -> None:
    """Prevents: minutes of training before the first word of what is wrong."""
    with pytest.raises(UserError, match=message):
        finished([*tiny, f"cache_dir={tmp_path / 'empty'}"], tmp_path / "run", *overrides)
    assert not (tmp_path / "empty/late_interaction").exists()


def test_the_teacher_is_sentence_transformers_multi_vector_encoder(whole: tuple[Path, dict[str, Any]]) -> None:
    """Prevents: a teacher that only this package can use, or that says other things elsewhere."""
    library = pytest.importorskip("sentence_transformers")
    if not hasattr(library, "MultiVectorEncoder"):
        pytest.skip("MultiVectorEncoder came with sentence-transformers 6")
    _, result = whole
    folder = Path(result["teacher_folder"])
    teacher, tokenizer = read_teacher(folder)
    queries, documents = ["s3 w1 w2", "s7"], ["s3 w5", "w1 w2 w3 s9", "s1"]
    batch = {
        **Texts(queries, tokenizer, 12, "query").batch([0, 1]),
        **Texts(documents, tokenizer, 16, "document").batch([0, 1, 2]),
    }
    with torch.no_grad():
        mine = teacher.eval()(batch)["logits"]
    other = library.MultiVectorEncoder(str(folder), device="cpu")
    theirs = other.similarity(other.encode_query(queries), other.encode_document(documents))
    torch.testing.assert_close(mine, 32 * torch.as_tensor(theirs), atol=1e-4, rtol=1e-4)


def test_a_second_stage_takes_its_negatives_from_the_first_ones_student(
    whole: tuple[Path, dict[str, Any]], tiny: list[str], tmp_path: Path
) -> None:
    """Prevents: hard negatives of another student than the one that is named, unnoticed."""
    folder, _ = whole
    for name, more in (
        ("student", [f"data.negatives={folder}"]),
        ("both", [f"data.negatives={folder}", f"pair.teacher.negatives={folder}"]),
        ("teacher", ["data.negatives=teacher", "data.negative_margin=-3"]),
    ):
        finished(tiny, tmp_path / name, "weighting=kd", "data.negative_depth=3", "data.meta_negatives=3", *more)
    made_of = json.loads((tmp_path / "both/inputs.json").read_text())["models"]
    assert {"student that mines for the student", "student that mines for the teacher"} <= set(made_of)
