"""Pairs of models and kinds of task through the whole staged run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch
from hydra import compose, initialize_config_dir
from scipy.stats import pearsonr, spearmanr
from transformers import AutoTokenizer, RobertaConfig, RobertaModel

from rwkd_lightning.report import rows as scored
from rwkd_lightning.run.outputs import write_json
from rwkd_lightning.run.result_table import table
from rwkd_lightning.run.runner import run
from rwkd_lightning.systems.text.build import data_of, student_of
from rwkd_lightning.utils.errors import UserError

ROOT = Path(__file__).parents[2]


def config(*overrides: str) -> Any:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = compose("config", list(overrides))
    composed.weighting_name = "kd"
    return composed


def run_in(folder: Path, *overrides: str) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    return run(config(*overrides), folder)


@pytest.fixture
def roberta(backbone: Path, tmp_path: Path) -> Path:
    """Another kind of model, with the same words under other ids."""
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    vocab = content["model"]["vocab"]
    ids = dict(zip(vocab, [*range(4), *range(len(vocab) - 1, 3, -1)], strict=True))
    content["model"]["vocab"] = ids
    tokenizer.save_pretrained(tmp_path / "roberta")
    (tmp_path / "roberta/tokenizer.json").write_text(json.dumps(content))
    torch.manual_seed(1)
    shape = RobertaConfig(
        vocab_size=len(ids) + 8,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=66,
        pad_token_id=0,
    )
    RobertaModel(shape).save_pretrained(tmp_path / "roberta")
    return tmp_path / "roberta"


def test_our_own_student_is_a_teacher_as_it_is(arguments: list[str], tmp_path: Path) -> None:
    """Prevents: a finished model fine-tuned again, or its outputs read in another order or from other tokens."""
    first = run_in(tmp_path / "a", *arguments, "weighting=kd")
    second = run_in(
        tmp_path / "b", *arguments, "weighting=kd", f"pair.teacher.path={tmp_path / 'a'}", "pair.teacher.epochs=0"
    )
    assert second["teacher"] == first["student"]
    assert second["cost"]["teacher_seconds"] is None
    assert len(list((tmp_path / "cache/teacher").glob("*/key.json"))) == 1  # the first run's


def test_student_starts_from_the_fine_tuned_teacher(arguments: list[str], tmp_path: Path) -> None:
    """Prevents: `pair.student.path=teacher` that starts from the backbone, before what the teacher learnt."""
    run_in(tmp_path / "a", *arguments, "weighting=kd")
    (teacher,) = (tmp_path / "cache/teacher").glob("*/model.safetensors")
    settings = config(*arguments, "pair.student.path=teacher", "pair.student.layers=[0]")
    student, _ = student_of(settings, data_of(settings).task, str(teacher.parent))
    from safetensors.torch import load_file

    kept = load_file(teacher)
    for name, value in student.network.state_dict().items():
        torch.testing.assert_close(value, kept[name])
    assert run_in(tmp_path / "b", *arguments, "weighting=kd", "pair.student.path=teacher", "pair.student.layers=[0]")


def test_teacher_and_student_with_different_tokenizers(arguments: list[str], roberta: Path, tmp_path: Path) -> None:
    """Prevents: the teacher fed the student's token ids: its logits, scores and speed would be those of noise."""
    same = run_in(tmp_path / "a", *arguments, "weighting=kd")
    other = run_in(
        tmp_path / "b", *arguments, "weighting=kd", f"pair.student.path={roberta}", "pair.student.layers=null"
    )
    assert other["teacher"] == same["teacher"]
    assert (tmp_path / "b/student/config.json").read_text().count("roberta")
    files = list((tmp_path / "cache/tokens").glob("*/key.json"))
    assert len({json.loads(file.read_text())["key"]["tokenizer"] for file in files}) == 2


def test_a_mistake_in_the_student_costs_no_teacher(arguments: list[str], tmp_path: Path) -> None:
    """Prevents: hours of fine-tuning before the student's path turns out to be wrong."""
    for override, said in (
        ("pair.student.path=/no/such/model", "/no/such/model"),
        ("data.max_length=65", "data.max_length is 65"),
        ("pair.student.layers=[4]", "from 0 to 1"),
    ):
        with pytest.raises(UserError, match=said):
            run_in(tmp_path / "a", *arguments, override)
    assert not (tmp_path / "cache/teacher").exists()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["pair.teacher.epochs=0"], "no trained head"),
        (["pair.teacher.epochs=-1"], "pair.teacher.epochs is -1"),
        (["pair.teacher.epochs=0", "pair.teacher.new_head=true"], "untrained head"),
        (["pair.teacher.labels=[positive,neutral,negative]"], "pair.teacher.epochs=0"),
    ],
)
def test_teachers_that_make_no_sense(overrides: list[str], said: str, arguments: list[str], tmp_path: Path) -> None:
    """Prevents: distilling from a random head, or settings that are quietly ignored."""
    with pytest.raises(UserError, match=said):
        run_in(tmp_path / "a", *arguments, *overrides)


@pytest.mark.parametrize("weighting", ["kd", "rwkd", "rwkd_online", "global"])
def test_regression(weighting: str, arguments: list[str], glue: Path, tmp_path: Path) -> None:
    """Prevents: a score task trained on classes, or scored with numbers that are not the correlations of its
    predictions.
    """
    given = [a for a in arguments if not a.startswith(("task.load", "data.path"))]
    result = run_in(tmp_path / "a", *given, "task=stsb", f"data.path={glue}", f"weighting={weighting}", "meta.start=0")
    assert set(result["student"]["validation"]) == {"pearson", "spearman"} and result["metric"] == "pearson"
    columns = pyarrow.parquet.read_table(tmp_path / "a/weights.parquet").to_pydict()
    assert {"w_squared_error", "w_logit_mse", "loss_squared_error"} <= set(columns)

    from transformers import AutoModelForSequenceClassification

    rows = pyarrow.parquet.read_table(glue / "stsb/validation-00000-of-00001.parquet").to_pydict()
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "a/student").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "a/student")
    with torch.no_grad():
        found = (
            model(**tokenizer(rows["sentence1"], rows["sentence2"], padding=True, return_tensors="pt"))
            .logits[:, 0]
            .numpy()
        )
    assert model.config.num_labels == 1
    expected = {"pearson": pearsonr(found, rows["label"])[0], "spearman": spearmanr(found, rows["label"])[0]}
    assert result["student"]["validation"] == pytest.approx(expected, abs=1e-4)
    for metric, score in result["student"]["validation"].items():  # again, from the rows that the run leaves
        assert scored.read(tmp_path / "a", "validation", metric, score) is not None


@pytest.mark.parametrize("corruption", ["label_noise", "teacher_noise", "meta_noise"])
def test_probes_of_a_regression(corruption: str, arguments: list[str], glue: Path, tmp_path: Path) -> None:
    """Prevents: a run that is reported as corrupted, and is not."""
    given = [a for a in arguments if not a.startswith(("task.load", "data.path"))]
    with pytest.raises(UserError, match=f"data.{corruption}.*task=stsb is a regression"):
        run_in(tmp_path / "a", *given, "task=stsb", f"data.path={glue}", f"data.{corruption}=0.1")


def test_terms_of_the_other_kind_of_task(arguments: list[str], glue: Path, tmp_path: Path) -> None:
    """Prevents: cross-entropy over one output, which is 0 for every score, and a student that learns nothing."""
    given = [a for a in arguments if not a.startswith(("task.load", "data.path"))]
    with pytest.raises(UserError, match=r"'ce' is for classes.*terms=\[squared_error,logit_mse\]"):
        run_in(tmp_path / "a", *given, "task=stsb", f"data.path={glue}", "terms=[ce,kd]")


def test_mnli_with_both_validations_and_predictions_for_the_site(
    arguments: list[str], glue: Path, tmp_path: Path
) -> None:
    """Prevents: half of MNLI's scores missing, and predictions of the teacher or of scored rows in the site's files."""
    given = [a for a in arguments if not a.startswith(("task.load", "data.path"))]
    result = run_in(tmp_path / "a", *given, "task=mnli", f"data.path={glue}", "weighting=kd", "data.leaderboard=true")
    assert set(result["student"]) == {"validation_matched", "validation_mismatched"} == set(result["teacher"])
    written = {p.name: p.read_text().splitlines() for p in (tmp_path / "a/predictions").iterdir()}
    assert {name: len(lines) for name, lines in written.items()} == {"MNLI-m.tsv": 13, "MNLI-mm.tsv": 13, "AX.tsv": 11}
    assert {line.split("\t")[1] for line in written["AX.tsv"][1:]} <= {"entailment", "neutral", "contradiction"}


def test_a_score_that_does_not_exist(tmp_path: Path) -> None:
    """Prevents: `NaN` in metrics.json, which is no JSON, and a correlation of 0 invented for constant predictions."""
    cost = dict.fromkeys(
        [
            "teacher_parameters",
            "student_parameters",
            "teacher_bytes",
            "student_bytes",
            "speed_up",
            "teacher_seconds",
            "train_seconds",
        ],
        1.0,
    )
    result = {
        "task": "stsb",
        "weighting": "kd",
        "seed": 0,
        "cost": cost,
        "student": {"validation": {"pearson": math.nan}},
        "teacher": {"validation": {"pearson": 0.5}},
    }
    write_json(tmp_path / "metrics.json", result)

    def refuse(word: str) -> None:
        raise AssertionError(word)

    again = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=refuse)
    assert "undefined" in table(result, "x") and table(again, "x") == table(result, "x")
