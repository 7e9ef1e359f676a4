"""Whole runs of summarisation on tiny documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file

from rwkd_lightning.predict import __main__ as predict
from rwkd_lightning.report import rows as scored
from rwkd_lightning.run.build import weighting_of
from rwkd_lightning.utils.errors import UserError
from tests.run.test_pipeline_run import config, finished
from tests.run.test_resume import check_same, power_cut
from tests.systems.summaries.conftest import overrides


@pytest.mark.parametrize("method", ["kd", "rwkd", "l2rw", "gradnorm"])
def test_methods_leave_a_whole_summary_run(method: str, tiny: list[str], tmp_path: Path) -> None:
    """Prevents: a method that trains on tokens, but whose results cannot be loaded or read."""
    folder = tmp_path / method
    more = ["data.label_noise=0.4", "data.teacher_noise=0.4", "meta.theta.tokens=32"]
    result = finished(tiny, folder, f"weighting={method}", *more)
    assert json.loads((folder / "metrics.json").read_text()) == result
    assert (result["task"], result["metric"]) == ("tiny", "rouge1")
    for metric in ("rouge1", "rouge2", "rougeL"):  # again, from the rows that the run leaves
        assert scored.read(folder, "test", metric, result["student"]["test"][metric]) is not None
    composed = config([*tiny, f"weighting={method}"])
    assert (result["cost"]["meta_steps"] > 0) == weighting_of(composed).needs_influence
    table = pyarrow.parquet.read_table(folder / "weights.parquet").to_pydict()
    w = torch.tensor([table[f"w_{term}"] for term in composed.terms])
    assert bool(w.isfinite().all()) and bool((w > 0).any()) and set(table["visits"]) == {2}
    assert sum(table["label_flipped"]) > 0 and sum(table["teacher_corrupted"]) > 0
    assert "student" in (folder / "summaries.html").read_text()


@pytest.mark.parametrize("method", ["tgeo", "wls", "teacher_confidence", "annealing_kd"])
def test_methods_that_read_classes_are_refused_for_summaries(method: str, tiny: list[str], tmp_path: Path) -> None:
    """Prevents: a method that takes a token for a class."""
    with pytest.raises(UserError, match=r"use `?weighting="):
        finished(tiny, tmp_path / "run", f"weighting={method}")


@pytest.fixture(scope="module")
def whole(
    documents: Path, summary_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A run long enough to learn the tiny documents, with a student of the teacher's weights, one block fewer."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    more = [
        "pair.teacher.epochs=12",
        "pair.teacher.lr=1e-2",
        "pair.student.path=teacher",
        "pair.student.decoder_layers=[0]",
        "weighting=kd",
        "trainer.max_epochs=4",
    ]
    return folder, finished(overrides(documents, summary_cache), folder, *more)


def test_a_run_learns_and_tells_what_it_is_beside(whole: tuple[Path, dict[str, Any]]) -> None:
    """Prevents: scores of other texts than they are called after."""
    _, result = whole
    test = result["student"]["test"]
    assert set(result["baselines"]) == {"lead"} and result["baselines"]["lead"]["test"]["rouge1"] > 0.4
    assert set(test) == set(result["teacher"]["test"])
    assert {
        "rouge1",
        "rouge2",
        "rougeL",
        "log_likelihood",
        "length_ratio",
        "novel_bigrams",
        "repeated_trigrams",
    } == set(test)
    assert result["meta"]["log_likelihood"] > -4.0  # even shares of 360 tokens have −5.89
    assert result["cost"]["student_parameters"] < result["cost"]["teacher_parameters"]
    assert len(result["examples"]) == 3 and set(result["examples"][0]) == {
        "document",
        "reference",
        "teacher",
        "student",
    }


def test_the_teachers_answers_take_few_bytes(whole: tuple[Path, dict[str, Any]], summary_cache: Path) -> None:
    """Prevents: a cache of the size of dense logits."""
    for file in summary_cache.glob("teacher_tokens/*/tokens.safetensors"):
        tokens = sum(len(values) for name, values in load_file(file).items() if name.endswith(".top"))
        assert file.stat().st_size <= tokens * (4 * 8 + 8) + 2000  # k = 8


def test_the_student_is_transformers_and_writes_what_the_run_has_scored(
    whole: tuple[Path, dict[str, Any]], documents: Path, tmp_path: Path
) -> None:
    """Prevents: an export that searches otherwise than the table's student."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    folder, result = whole
    model = AutoModelForSeq2SeqLM.from_pretrained(folder / "student").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "student")
    assert model.config.decoder_layers == 1
    rows = [json.loads(line) for line in (documents / "train.jsonl").read_text().splitlines()]
    written = {}
    for row in rows:
        ids = model.generate(**tokenizer(row["document"], truncation=True, max_length=40, return_tensors="pt"))
        written[row["document"]] = tokenizer.decode(ids[0], skip_special_tokens=True).strip()
    for example in result["examples"]:
        assert written[example["document"]] == example["student"]
    out = tmp_path / "out.jsonl"
    assert predict.main([str(folder), str(documents / "train.jsonl"), "-o", str(out)]) == 0
    said = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["predicted_summary"] for row in said] == [written[row["document"]] for row in said]


@pytest.mark.parametrize(("method", "along"), [("rwkd", False), ("kd", True)])
def test_an_interrupted_summary_run_ends_as_if_it_had_not_been(
    method: str, along: bool, tiny: list[str], tmp_path: Path, last: dict[str, dict[str, Any]]
) -> None:
    """Prevents: noise of student or teacher, a bank of tokens or an order of documents that a checkpoint loses."""
    arguments = [
        *tiny,
        f"weighting={method}",
        f"pair.teacher.along={along}",
        "trainer.log_every_n_steps=1",
        "meta.theta.tokens=32",
    ]
    finished(arguments, tmp_path / "whole")
    with power_cut(5, True):
        finished(arguments, tmp_path / "cut", "checkpoint.steps=1")
    finished(arguments, tmp_path / "cut")
    check_same(tmp_path / "whole", tmp_path / "cut", last)


@pytest.mark.parametrize(("meta", "parts"), [("head", 2), ("last_block", 1), ("all", 1)])
def test_other_meta_steps_of_summaries(meta: str, parts: int, tiny: list[str], tmp_path: Path) -> None:
    """Prevents: a θ whose outputs are those of summaries as one class each."""
    terms = "terms=[ce,kd,smooth,confidence]" if meta == "all" else "terms=[ce,kd,smooth]"
    more = [
        f"meta={meta}",
        "trainer.max_epochs=1",
        f"pair.teacher.along={meta == 'all'}",
        f"trainer.accumulate={parts}",
        terms,
        "data.score_rows=4",
    ]
    result = finished(tiny, tmp_path / "run", *more)
    assert result["cost"]["meta_steps"] > 0


def test_a_smaller_student_learns_from_the_summaries_that_a_finished_run_writes(
    whole: tuple[Path, dict[str, Any]], tiny: list[str], tmp_path: Path
) -> None:
    """Prevents: sequence-level distillation that trains on references, or a finished student that is no teacher."""
    folder, first = whole
    more = [
        f"pair.teacher.path={folder}",
        "pair.teacher.epochs=0",
        "pair.student.path=null",
        "pair.student.model={width: 8, encoder_layers: 1, decoder_layers: 1, heads: 1, ffn: 16, dropout: 0.0}",
        "data.targets=teacher",
        "weighting=kd",
    ]
    result = finished(tiny, tmp_path / "run", *more)
    assert result["teacher"]["test"]["rouge1"] == pytest.approx(first["student"]["test"]["rouge1"], abs=1e-6)
    table = pyarrow.parquet.read_table(tmp_path / "run/weights.parquet").to_pydict()
    assert max(table["loss_teacher_ce"]) < 6 and "<dt>teacher</dt>" in (tmp_path / "run/summaries.html").read_text()


def test_a_student_of_other_tokens_learns_from_summaries_alone(
    documents: Path, summary_cache: Path, tiny: list[str], tmp_path: Path
) -> None:
    """Prevents: answers of one tokenizer's tokens taken for another's."""
    other = overrides(documents, summary_cache)
    finished(
        other, tmp_path / "one", "data.vocabulary=330", "weighting=ce", "trainer.max_epochs=1", "data.score_rows=2"
    )
    more = [f"pair.student.path={tmp_path / 'one'}", "data.targets=teacher", "trainer.max_epochs=1"]
    with pytest.raises(UserError, match=r"another tokenizer.*data.targets=teacher terms=\[ce,smooth\] weighting=ce"):
        finished(tiny, tmp_path / "run", *more)
    result = finished(tiny, tmp_path / "run", *more, "terms=[ce,smooth]", "weighting=ce", "data.score_rows=2")
    assert result["student"]["test"]["log_likelihood"] < 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["meta=bank"], r"use meta=token_bank"),
        (["trainer.devices=2", "trainer.strategy=ddp"], r"makes 2 processes.*use trainer.devices=1"),
        (["pair.teacher.epochs=0"], r"without a pair.teacher.path it is a new one"),
        (["pair.teacher.dropout=0"], r"pair.teacher.passes=2 averages passes with dropout.*set pair.teacher.passes=0"),
        (["pair.teacher.along=true", "meta.loss=soft"], r"set pair.teacher.along=false, or meta.loss=hard"),
        (["loss_terms.kd.temperature=2"], r"are kept at temperature=1.0; set temperature=2"),
        (["data.targets=teacher", "data.label_noise=0.1"], r"set data.label_noise=0"),
        (["pair.student.encoder_layers=[1]"], r"encoder_layers=\[1\]: name each block once, from 0 to 0"),
        (["pair.teacher.model.heads=3"], r"width 16 cannot have 3 heads"),
        (["data.path=/nowhere"], "nowhere"),
        (["data.vocabulary=299"], "data.vocabulary is 299; give a whole number from 300"),
        (["pair.student.path=/nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_told_before_the_teacher_is_trained(
    overrides: list[str], message: str, tiny: list[str], tmp_path: Path
) -> None:
    """Prevents: minutes of training before the first word of what is wrong."""
    with pytest.raises(UserError, match=message):
        finished([*tiny, f"cache_dir={tmp_path / 'empty'}"], tmp_path / "run", *overrides)
    assert not (tmp_path / "empty/summary_teacher").exists()
