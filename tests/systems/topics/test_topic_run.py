"""The staged run of topic models on tiny data: every method, every distillation, resume, export, inference,
mistakes.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from sklearn.metrics import roc_auc_score

from rwkd_lightning.systems.topics.evaluate import found_by
from rwkd_lightning.systems.topics.infer import Student, main
from rwkd_lightning.systems.topics.metrics import coherence
from rwkd_lightning.systems.topics.model import load
from rwkd_lightning.utils.errors import UserError
from tests.forked import train
from tests.run.test_pipeline_run import METHODS, finished
from tests.run.test_resume import check_same, power_cut

UNFIT = {
    "oracle": "data.teacher_noise",
    "wls": "'ce' is not known",
    "teacher_confidence": "classes",
    "tgeo": "classes",
    "annealing_kd": "annealed_mse",
    "gradnorm": "prior_kl",
}
"""Methods that need classes or corruptions, with a word of what they say."""


@pytest.fixture
def arguments(octis: Path, encoder: Path, tmp_path: Path) -> list[str]:
    return [
        "task=topics",
        f"data.path={octis}",
        f"pair.teacher.encoder={encoder}",
        f"pair.student.encoder={encoder}",
        "task.topics=3",
        "alpha=0.5",
        "temperature=2.0",
        "pair.teacher.layers=1",
        "pair.teacher.epochs=3",
        "trainer.max_epochs=2",
        "data.batch_size=20",
        "data.meta_fraction=0.1",
        "data.test_fraction=0.1",
        "meta.batch_size=5",
        "meta.every=1",
        "trainer.accelerator=cpu",
        f"cache_dir={tmp_path / 'cache'}",
        f"runs_dir={tmp_path / 'runs'}",
    ]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_weighs_documents_or_says_why_not(method: str, arguments: list[str], tmp_path: Path) -> None:
    """Prevents: a method that trains topic models with weights for terms or classes that there are not."""
    folder, chosen = tmp_path / "run", [f"weighting={method}", f"weighting_name={method}"]
    if method in UNFIT:
        with pytest.raises(UserError, match=UNFIT[method]):
            finished(arguments, folder, *chosen)
        assert not (tmp_path / "cache/topic_teacher").exists()
        return
    result = finished(arguments, folder, *chosen)
    assert result["cost"]["steps"] == 2 * 4  # 72 documents, batches of 20
    weights = pyarrow.parquet.read_table(folder / "weights.parquet").to_pydict()
    assert len(weights["idx"]) == 72
    w = torch.tensor([weights[f"w_{term}"] for term in ("prior_kl", "reconstruction", "w2", "soft_ce")])
    assert bool(w.isfinite().all())
    assert bool((w > 0).any())


def test_another_optimizer_schedule_and_early_stopping(arguments: list[str], tmp_path: Path) -> None:
    """Prevents: groups that only text classifiers read; early stopping by a score that topic models do not have."""
    result = finished(
        arguments,
        tmp_path / "run",
        "weighting=kd",
        "optimizer._target_=torch.optim.SGD",
        "~optimizer.betas",
        "scheduler=linear",
        "trainer.max_epochs=5",
        "callbacks=early_stopping",
        "callbacks.early_stopping.patience=1",
        "callbacks.early_stopping.min_delta=1e6",
    )
    assert result["cost"]["steps"] == 2 * 4
    with (tmp_path / "run/log/metrics.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file) if row["meta/likelihood"]] == ["4", "8"]


@pytest.mark.parametrize(
    ("distillation", "terms"),
    [
        ("none", ["prior_kl", "reconstruction"]),
        ("soft_ce", ["prior_kl", "reconstruction", "soft_ce"]),
        ("w2", ["prior_kl", "reconstruction", "w2"]),
        ("full", ["prior_kl", "reconstruction", "w2", "soft_ce"]),
    ],
)
def test_a_run_leaves_everything_behind(
    distillation: str, terms: list[str], arguments: list[str], tmp_path: Path
) -> None:
    """Prevents: files of a run that do not belong together, or a distillation that trains by other terms than it
    says.
    """
    folder = tmp_path / "run"
    weighting = "ce" if distillation == "none" else "kd"
    result = finished(arguments, folder, f"task.distillation={distillation}", f"weighting={weighting}")
    assert json.loads((folder / "metrics.json").read_text()) == result
    for who in ("student", "teacher"):
        assert set(result[who]["train"]) == {
            "npmi",
            "c_v",
            "diversity",
            "decoder_npmi",
            "decoder_c_v",
            "decoder_diversity",
            "perplexity",
            "purity",
            "nmi",
        }
        assert set(result[who]["test"]) == {"perplexity", "purity", "nmi"}
        assert len(result["topics"][who]) == 3
        assert sum(topic["share"] for topic in result["topics"][who]) == pytest.approx(1)
    columns = pyarrow.parquet.read_schema(folder / "weights.parquet").names
    assert [name for name in columns if name.startswith("w_")] == [f"w_{term}" for term in terms]
    weights = pyarrow.parquet.read_table(folder / "weights.parquet").to_pydict()
    if distillation == "full":
        assert all(set(weights[f"w_{name}"]) == {0.5} for name in terms)
    documents = pyarrow.parquet.read_table(folder / "documents.parquet").to_pydict()
    assert len(documents["idx"]) == 90 and sorted(documents["idx"]) == list(range(90))
    assert all(
        sum(row) == pytest.approx(1, abs=1e-5) for row in zip(*(documents[f"topic_{k}"] for k in range(3)), strict=True)
    )
    student = load(folder / "student")
    words = (folder / "student/vocabulary.txt").read_text().split()
    first = result["topics"]["student"][0]
    assert words[int(student.beta[0].argmax())] == first["words_by_beta"][0]
    assert words[int(student.norm_words(student.beta)[0].argmax())] == first["words"][0]
    assert json.loads((folder / "topics.json").read_text()) == result["topics"]
    page = (folder / "topics.html").read_text()
    assert all(word in page for topic in result["topics"]["student"] for word in topic["words"])


@pytest.mark.parametrize("method", ["oracle", "rwkd"])
def test_a_probe_tells_what_finds_corrupted_teachers(method: str, arguments: list[str], tmp_path: Path) -> None:
    """Prevents: a corruption that corrupts other documents than it says, or a figure of it the wrong way round."""
    result = finished(arguments, tmp_path / "run", f"weighting={method}", "data.teacher_noise=0.4")
    columns = pyarrow.parquet.read_table(tmp_path / "run/weights.parquet").to_pandas()
    assert columns.teacher_corrupted.sum() == round(0.4 * 72)
    found = result["corruption"]["teacher_corrupted"]
    for term in ("w2", "soft_ce"):
        scores = {
            "weight": -columns[f"w_{term}"],
            "influence": -columns[f"influence_{term}"],
            "loss": columns[f"loss_{term}"],
        }
        for kind, score in scores.items():
            if score.std() > 0:
                assert found[f"{kind} of {term}"] == pytest.approx(roc_auc_score(columns.teacher_corrupted, score))
        if method == "oracle":
            assert found[f"weight of {term}"] == 1
            assert set(columns[f"w_{term}"]) == {0, 0.25} and f"influence of {term}" not in found


def test_a_teachers_coherence_is_computed_once(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prevents: minutes of counting with every student; a run lost at its end for a topic whose words no document
    has.
    """
    asked = []

    def counted(topics: Any, documents: Any) -> dict[str, Any]:
        asked.append(topics)
        found = coherence(topics, documents)
        return {**found, **{name: [float("nan"), *found[name][1:]] for name in ("npmi_per_topic", "c_v_per_topic")}}

    monkeypatch.setattr("rwkd_lightning.systems.topics.evaluate.coherence", counted)
    finished(arguments, tmp_path / "one", "weighting=kd")
    assert len(asked) == 4  # two readings of the student and of the teacher
    finished(arguments, tmp_path / "two", "weighting=uncertainty")
    assert len(asked) == 6
    one, two = (json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("one", "two"))
    assert two["teacher"] == one["teacher"] and two["topics"]["teacher"] == one["topics"]["teacher"]
    assert [topic["npmi"] is None for topic in two["topics"]["teacher"]] == [True, False, False]
    assert two["topics"]["teacher"] == json.loads((tmp_path / "two/topics.json").read_text())["teacher"]
    finished(arguments, tmp_path / "two", "weighting=uncertainty")  # only prints its table
    assert "topics of the student" in capsys.readouterr().out


def test_an_interrupted_run_ends_as_the_whole_one(
    arguments: list[str], tmp_path: Path, last: dict[str, dict[str, Any]]
) -> None:
    """Prevents: running statistics, noise or held-out documents that go another way after a resume."""
    options = ["weighting=rwkd", "trainer.log_every_n_steps=1"]
    finished(arguments, tmp_path / "whole", *options)
    with power_cut(3, True):
        finished(arguments, tmp_path / "cut", *options, "checkpoint.steps=3")
    finished(arguments, tmp_path / "cut", *options)
    check_same(tmp_path / "whole", tmp_path / "cut", last)


def test_the_best_epoch_is_the_one_that_explains_held_out_documents(arguments: list[str], tmp_path: Path) -> None:
    """Prevents: trainer.select=best without a score to choose by."""
    result = finished(arguments, tmp_path / "run", "weighting=kd", "trainer.select=best")
    assert result["checkpoint"].startswith("best meta/likelihood")
    logged = [line.split(",") for line in (tmp_path / "run/log/metrics.csv").read_text().splitlines()]
    best = max(float(row[logged[0].index("meta/likelihood")] or "-inf") for row in logged[1:])
    assert result["meta"] == {"likelihood": pytest.approx(best, rel=0.02)}  # of other draws of θ


def test_the_command_line_and_new_documents(
    arguments: list[str], octis: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prevents: topics of new documents that are not those that the run found for the same texts."""
    call = [*arguments, "weighting=kd"]
    first = train(*call, cwd=tmp_path)
    assert first.returncode == 0, first.stderr[-2000:]
    assert "topics of the student" in first.stdout
    (run,) = (tmp_path / "runs/topics").iterdir()
    again = train(*call, cwd=tmp_path)
    assert "already finished" in again.stdout and "topics of the student" in again.stdout

    texts = [line.split("\t")[0] for line in (octis / "corpus.tsv").read_text().splitlines()]
    documents = pyarrow.parquet.read_table(run / "documents.parquet").to_pydict()
    trained = [row for row, part in enumerate(documents["part"]) if part == "train"][::-2]  # some, in another order
    shares = Student(run / "student").shares([texts[documents["idx"][row]] for row in trained])
    for k in range(3):
        assert shares[:, k].tolist() == pytest.approx([documents[f"topic_{k}"][row] for row in trained], abs=1e-5)

    (tmp_path / "new.txt").write_text("boat wave fish\nnothing of all this\n")
    main([str(run / "student"), str(tmp_path / "new.txt"), "--to", str(tmp_path / "new.csv")])
    with (tmp_path / "new.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["document"] for row in rows] == ["0", "1"]
    assert sum(float(rows[0][f"topic_{k}"]) for k in range(3)) == pytest.approx(1, abs=1e-3)
    main([str(run / "student"), str(tmp_path / "new.txt")])
    assert capsys.readouterr().out.splitlines()[0].startswith("document,topic,words,topic_0")


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (["data.batch_size=71"], "data.batch_size=72"),
        (["meta.batch_size=1"], "meta.batch_size=2"),
        (["data.teacher_noise=0.01", "weighting=kd"], "data.teacher_noise is 0.01.*two documents or more"),
        (["data.batch_size=35", "trainer=ddp", "trainer.devices=2"], "one of 2 processes.*data.batch_size=36"),
        (["meta.batch_size=2", "trainer=ddp", "trainer.devices=2"], "one of 2 processes.*meta.batch_size=4"),
        (["weighting=rwkd", "meta=last_block"], "no blocks; use meta=all"),
        (["meta=bank"], "meta"),
        (["meta_features=standard", "weighting=rwkd"], "meta_features"),
        (["terms=[prior_kl,reconstruction,ce]"], "not known"),
        (["task.distillation=none", "weighting=kd"], "no teacher term"),
        (["+loss_terms.soft_ce.output=logit"], "the term 'soft_ce' reads the student's output 'logit', and it gives"),
        (["task.distillation=half"], "task.distillation is"),
        (["trainer.accumulate=2"], "trainer.accumulate"),
        (["task.topics=1"], "task.topics"),
        (["data.path=FEW"], "its vocabulary has 4 words, and 10 are shown of each topic"),
        (["alpha=null", "task.topics=7"], "task.settings=m10 task.topics=7 has no published"),
    ],
)
def test_mistakes_are_told(more: list[str], match: str, arguments: list[str], tmp_path: Path) -> None:
    """Prevents: a traceback, or hours of a teacher's training before it."""
    few = tmp_path / "few.txt"
    few.write_text("\n".join(f"{'ship' * (i % 3)} boat{'s' * (i % 2)}" for i in range(40)))
    more = [word.replace("FEW", str(few)) for word in more]
    with pytest.raises(UserError, match=match):
        finished(arguments, tmp_path / "run", *more)


def test_a_probe_counts_the_documents_that_have_the_figure() -> None:
    """Prevents: no figure at all where training ended before it reached all documents, or one that counts those."""
    draw, nan = np.random.default_rng(0), float("nan")
    flags = draw.random(40) < 0.5
    columns = {
        "teacher_corrupted": torch.tensor(flags),
        "w_w2": torch.full((40,), 0.5),
        "influence_w2": torch.full((40,), nan),
        "loss_w2": torch.tensor(draw.random(40)),
    }
    columns["loss_w2"][:9] = columns["w_w2"][:9] = nan
    expected = roc_auc_score(flags[9:], columns["loss_w2"][9:])
    assert found_by(columns, ["w2"]) == {"loss of w2": pytest.approx(expected)}
