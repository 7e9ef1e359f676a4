"""Whole runs of text and picture on tiny data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch

from rwkd_lightning.run.build import weighting_of
from rwkd_lightning.utils.errors import UserError
from tests.run.test_pipeline_run import config, finished
from tests.run.test_resume import check_same, power_cut
from tests.shipped_methods import METHODS
from tests.systems.multimodal.conftest import write_pairs

TWO_TERMS = ("annealed", "annealing_kd", "mwn", "oracle", "teacher_confidence", "tgeo", "wls")
"""Methods with a rule for a label's and a teacher's term alone."""
OF_PAIRS = ("saliency", "modality_oracle")
NOISE = ("data.text_noise=0.3", "data.image_noise=0.3", "data.label_noise=0.2", "data.teacher_noise=0.2")


@pytest.mark.parametrize("method", sorted({*METHODS, *OF_PAIRS} - {"given"}))
def test_every_method_leaves_a_whole_run_of_pairs(method: str, tiny: list[str], tmp_path: Path) -> None:
    """Prevents: a method that trains on text and picture, but whose results cannot be loaded or read."""
    folder = tmp_path / method
    more = ["terms=[ce,annealed_mse]"] if method == "annealing_kd" else ["terms=[ce,kd]"] if method in TWO_TERMS else []
    result = finished(tiny, folder, f"weighting={method}", *NOISE, *more)
    assert json.loads((folder / "metrics.json").read_text()) == result
    composed = config([*tiny, f"weighting={method}", *more])
    assert (result["cost"]["meta_steps"] > 0) == weighting_of(composed).needs_influence
    table = pyarrow.parquet.read_table(folder / "weights.parquet").to_pydict()
    w = torch.tensor([[x or 0.0 for x in table[f"w_{term}"]] for term in composed.terms])
    assert bool(w.isfinite().all()) and bool((w > 0).any()) and set(table["visits"]) == {2}
    for flag in ("label_flipped", "teacher_corrupted", "text_swapped", "image_swapped"):
        assert sum(table[flag]) > 0
    assert set(result["alone"]["student"]) == {"both", "text", "image"}
    assert (folder / "pictures.html").read_text().count("<figure>") > 10


@pytest.mark.parametrize("method", ["rwkd", "saliency"])
def test_an_interrupted_run_of_pairs_ends_as_if_it_had_not_been(
    method: str, tiny: list[str], tmp_path: Path, last: dict[str, dict[str, Any]]
) -> None:
    """Prevents: a bank of modalities, or shares, that a checkpoint loses."""
    arguments = [*tiny, f"weighting={method}", "trainer.log_every_n_steps=1"]
    finished(arguments, tmp_path / "whole")
    with power_cut(5, True):
        finished(arguments, tmp_path / "cut", "checkpoint.steps=1")
    finished(arguments, tmp_path / "cut")
    check_same(tmp_path / "whole", tmp_path / "cut", last)


@pytest.mark.parametrize("meta", ["all", "last_block"])
def test_other_meta_steps_of_pairs(meta: str, tiny: list[str], tmp_path: Path) -> None:
    """Prevents: a θ whose three passes cannot be differentiated."""
    result = finished(tiny, tmp_path / "run", f"meta={meta}", "trainer.max_epochs=1", "meta.loss=mix")
    assert result["cost"]["meta_steps"] > 0


def test_a_student_of_one_modality_and_its_files(tiny: list[str], tmp_path: Path) -> None:
    """Prevents: a student of texts that needs pictures, and files that say other things than the table."""
    from transformers import AutoTokenizer, VisualBertForVisualReasoning

    folder = tmp_path / "run"
    more = ["pair.student.modalities=text", "terms=[ce,kd]", "trainer.max_epochs=6", "weighting=kd"]
    result = finished(tiny, folder, *more)
    network = VisualBertForVisualReasoning.from_pretrained(folder / "student").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "student")
    composed = config(tiny)
    rows = [json.loads(line) for line in (Path(composed.data.path) / "test.jsonl").read_text().splitlines()]
    said = []
    for row in rows:
        tokens = tokenizer(row.get("text", ""), return_tensors="pt", truncation=True, max_length=12)
        said.append(network(**tokens).logits.argmax().item())
    right = [network.config.id2label[x] == row["label"] for x, row in zip(said, rows, strict=True)]
    assert sum(right) / len(right) == pytest.approx(result["student"]["test"]["accuracy"])
    assert result["student"]["test"]["accuracy"] > 0.5 > result["alone"]["student"]["image"]["accuracy"] - 0.2


def test_several_labels_are_learned(tiny: list[str], tmp_path: Path) -> None:
    """Prevents: a softmax, or features of one class, for rows that have several labels."""
    data = write_pairs(tmp_path / "several", several=True)
    result = finished([*tiny, f"data.path={data}", "data.several=true"], tmp_path / "run", "trainer.max_epochs=4")
    assert result["metric"] == "micro_f1" and result["teacher"]["test"]["micro_f1"] > 0.6


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.several=true"], r"have one label each; set data.several=false"),
        (["pair.student.modalities=text"], r"a student of one modality, and terms has kd_text.*set terms=\[ce,kd\]"),
        (["weighting=saliency", "terms=[ce,kd]"], r"saliency weighs the terms of text and picture"),
        (["weighting=modality_oracle"], r"nothing is; set data.text_noise or data.image_noise"),
        (["meta.theta.centre=true"], r"meta.theta.centre=true is not for text and picture"),
        (["data.path=/nowhere"], "/nowhere' is not a directory"),
        (["pair.encoder.path=/nowhere"], "/nowhere"),
        (["terms=[ce,squared_error]"], "squared_error"),
    ],
)
def test_a_mistake_with_pairs_is_told_before_the_teacher_is_trained(
    overrides: list[str], message: str, tiny: list[str], tmp_path: Path
) -> None:
    """Prevents: minutes of training before the first word of what is wrong."""
    from rwkd_lightning.cli import schema

    with pytest.raises(UserError, match=message):
        schema.check(config([*tiny, *overrides]))
        finished([*tiny, f"cache_dir={tmp_path / 'empty'}"], tmp_path / "run", *overrides)
    assert not (tmp_path / "empty/multimodal_teacher").exists()


def test_a_finished_student_is_asked_for_files(tiny: list[str], tmp_path: Path) -> None:
    """Prevents: pictures that are read otherwise afterwards than in training."""
    from rwkd_lightning.systems.multimodal.shipped import Student

    folder = tmp_path / "run"
    finished(tiny, folder, "weighting=kd", "trainer.max_epochs=1")
    student = Student(folder / "student")
    data = Path(config(tiny).data.path)
    rows = [json.loads(line) for line in (data / "test.jsonl").read_text().splitlines()]
    texts, files = [row.get("text", "") for row in rows], [data / row["img"] if "img" in row else None for row in rows]
    kept = pyarrow.parquet.read_table(folder / "predictions.parquet").to_pylist()
    expected = torch.tensor([row["output"] for row in kept if row["split"] == "test"])
    torch.testing.assert_close(student.logits(texts, files), expected, atol=1e-5, rtol=1e-4)
    assert student.classes == ["blue", "green", "red"]
    with pytest.raises(UserError, match=r"has no pictures.json; give the folder student/"):
        Student(folder)
