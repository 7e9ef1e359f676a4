"""Several labels per row: what is read, how it is cut, learnt, scored and shipped."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score
from torch.distributions import Bernoulli, kl_divergence

from rwkd_lightning.predict.__main__ import main as predict
from rwkd_lightning.systems.text.data.table import load_table
from rwkd_lightning.systems.text.data.task import column
from rwkd_lightning.systems.text.metrics import score
from rwkd_lightning.terms import BernoulliKL, BinaryCrossEntropy
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting import ClassificationFeatures, MultiLabelFeatures, Step
from tests.run.conftest import arguments, backbone, tweets  # noqa: F401 (fixtures)
from tests.run.test_pipeline_run import finished

NAMES = ("food", "place", "staff")
WORDS = {"food": "good", "place": "table", "staff": "bad"}


def table_of(count: int = 120) -> list[dict[str, Any]]:
    """Texts that name their labels; every eighth row has none, every eleventh is not known."""
    rows = []
    for i in range(count):
        labels = [name for bit, name in enumerate(NAMES) if i >> bit & 1]
        text = " ".join(["the", *(WORDS[name] for name in labels), f"a{i}"])
        rows.append({"text": text, "labels": None if i % 11 == 10 else labels})
    return rows


def write(file: Path, rows: list[dict[str, Any]]) -> str:
    file.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return str(file)


def truth(rows: list[dict[str, Any]], idx: int) -> list[float]:
    labels = rows[idx]["labels"]
    return [-1.0] * 3 if labels is None else [float(name in labels) for name in NAMES]


def test_every_form_gives_the_same(tmp_path: Path) -> None:
    """Prevents: labels of one row given to another, a row without labels taken for one that nobody has labelled."""
    rows = table_of()
    for row in rows:
        known = row["labels"] is not None
        row["text_of"] = " ; ".join(row["labels"]) if known else None
        row |= {name: (1 if name in row["labels"] else 0) if known else None for name in NAMES}
    file = write(tmp_path / "a.jsonl", rows)
    for label in ("labels", "text_of", list(NAMES)):
        data = load_table(file, "text", label, multilabel=True)
        assert data.task.label_names == NAMES and data.task.metrics == ("micro_f1", "macro_f1", "map")
        for split in ("train", "meta", "validation", "test"):
            found = data.task.targets(column(data.splits[split], "label"))
            expected = np.array([truth(rows, i) for i in column(data.splits[split], "idx")])
            np.testing.assert_array_equal(found, expected)
            assert split == "train" or not (found < 0).any()
    csv = tmp_path / "a.csv"
    csv.write_text("text,labels\n" + "\n".join(f"{r['text']},{'|'.join(r['labels'] or [])}" for r in rows) + "\n")
    data = load_table(str(csv), "text", "labels", multilabel=True, separator="|")
    counts = data.task.targets(column(data.splits["train"], "label")).sum(1)
    assert (counts == 0).any() and not (counts < 0).any()  # an empty cell of a CSV file is a row without labels


def test_cuts_keep_rare_labels_on_both_sides(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Prevents: a rare label that is nowhere in the meta split, and one that a split lacks in silence."""
    rows = [{"text": f"t{i}", "labels": ["a"] + ["b"] * (i % 3 == 0) + ["rare"] * (i % 25 == 0)} for i in range(200)]
    rows.append({"text": "the only one", "labels": ["a", "single"]})
    rows.append({"text": "t1", "labels": []})
    with caplog.at_level(logging.INFO):
        data = load_table(write(tmp_path / "a.jsonl", rows), "text", "labels", multilabel=True)
    for split in ("train", "meta", "validation", "test"):
        present = data.task.classes_in(column(data.splits[split], "label"))
        assert {0, 1, 2} <= present and (3 in present) is (split == "train")
    for said in (
        "labels: a 201, b 67, rare 8, single 1",
        "1.37 labels per row in the mean, 3 at most; 1 rows have none",
        "1 texts (or groups) have rows with different labels",
        "label 'a' has 201 rows, label 'single' 1: look at macro_f1",
        "no row of validation has the label(s) single",
        "no row of test has the label(s) single",
        "no row of the meta split has the label(s) single",
    ):
        assert said in caplog.text, said


WRONG: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    "separator": (
        ["a,b", "b", "a"] * 9,
        {},
        "no row with two labels, where ';' stands between them; set data.separator",
    ),
    "texts": ([f"x{i} y{i}" for i in range(40)], {}, "40 different labels in 40 rows, 'x0 y0' among them"),
    "one label": (["a;a", "a"] * 9, {}, r"the label\(s\) \['a'\]; give two or more"),
    "empty name": ([["a", " "], ["b"]] * 9, {}, "line 1 has an empty label"),
    "no list": ([{"a": 1}, ["b"]] * 9, {}, r"line 1 has \{'a': 1\} in column 'labels'; give the labels"),
    "unknown": (["a;b", "c"] * 9, {"classes": ["a", "b"]}, "line 2 has 'c' .*not among data.classes"),
    "absent": (["a;b", "b"] * 9, {"classes": ["a", "b", "c"]}, "no row with the label 'c'"),
    "a name that would be parted": (
        [["a;x", "b"], ["b"]] * 9,
        {},
        "the label 'a;x', and data.separator=; would part it",
    ),
    "names twice": (
        ["a;b", "b", "a"] * 9,
        {"label": ["other", "more"], "classes": ["more", "other"]},
        "leave out data.classes",
    ),
    "two kinds": (["a;b", "b"] * 9, {"regression": True}, "set one of them to false"),
    "columns of one class": (
        ["a;b", "b"] * 9,
        {"label": ["labels", "other"], "multilabel": False},
        r"data.label=\[labels,other\] names 2 columns; add data.multilabel=true",
    ),
    "no flag": (["a;b", "b"] * 9, {"label": ["labels", "other"]}, "line 1 has 'a;b' in column 'labels'; give 0 or 1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_labels_that_cannot_be(name: str, tmp_path: Path) -> None:
    """Prevents: a training on labels that are something else."""
    cells, options, said = WRONG[name]
    rows = [{"text": f"t{i}", "labels": cell, "other": 1, "more": i % 2} for i, cell in enumerate(cells)]
    with pytest.raises(UserError, match=said) as caught:
        load_table(write(tmp_path / "a.jsonl", rows), "text", **{"label": "labels", "multilabel": True, **options})
    assert "\n" not in str(caught.value)


def test_terms_against_torch() -> None:
    """Prevents: a loss summed over the labels, a divergence the wrong way round, a masked row with a gradient."""
    torch.manual_seed(0)
    logits = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[0, 1, 1], [-1, -1, -1], [0, 0, 0], [1, 1, 1], [1, 0, 0]], dtype=torch.float32)
    batch = {"index": torch.arange(5), "labels": labels, "teacher_logits": torch.randn(5, 3, dtype=torch.float64)}
    known = torch.tensor([True, False, True, True, True])
    bce = BinaryCrossEntropy()
    assert torch.equal(bce.valid(batch), known)
    p = logits.detach().sigmoid()
    expected = -(labels * p.log() + (1 - labels) * (1 - p).log()).mean(1)
    losses = bce({"logits": logits}, batch)
    torch.testing.assert_close(losses.detach(), torch.where(known, expected, 0.0))
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    torch.testing.assert_close(gradient, torch.where(known[:, None], (p - labels) / 3, 0.0))
    t = batch["teacher_logits"] / 4
    divergence = 16 * kl_divergence(Bernoulli(logits=t), Bernoulli(logits=logits.detach() / 4)).mean(1)
    torch.testing.assert_close(BernoulliKL(4.0)({"logits": logits}, batch).detach(), divergence)

    step = Step(
        torch.zeros(5, 2), torch.ones(5, 2, dtype=torch.bool), ("bce", "bernoulli_kd"), {"logits": logits}, batch
    )
    found = MultiLabelFeatures(4.0)(step)
    assert torch.equal(ClassificationFeatures(4.0)(step), found)  # what meta_features=standard makes
    q = batch["teacher_logits"].sigmoid()
    torch.testing.assert_close(found[known, 0], torch.log1p(expected)[known])
    torch.testing.assert_close(found[:, 1], torch.log1p(divergence))
    right = torch.where(labels > 0, p, 1 - p).mean(1)
    torch.testing.assert_close(found[known, 3], right[known])
    torch.testing.assert_close(found[:, 5], Bernoulli(p).entropy().mean(1))
    torch.testing.assert_close(found[:, 7], (p * q + (1 - p) * (1 - q)).mean(1))
    assert not found[~known][:, [0, 2, 3, 4]].any()


def test_scores_against_sklearn(tmp_path: Path) -> None:
    """Prevents: a threshold on logits that is none of 0, averages over other axes, a label without rows as NaN."""
    task = load_table(write(tmp_path / "a.jsonl", table_of()), "text", "labels", multilabel=True).task
    draw = np.random.default_rng(0)
    labels, logits = draw.integers(0, 2, (40, 3)).astype(np.float32), draw.normal(size=(40, 3)).astype(np.float32)
    labels[:, 1] = 0
    found = score(task, torch.from_numpy(logits), torch.from_numpy(labels))
    chosen = logits > 0
    assert found["micro_f1"] == pytest.approx(f1_score(labels, chosen, average="micro"))
    assert found["macro_f1"] == pytest.approx(f1_score(labels, chosen, average="macro", zero_division=0))
    per_label = [average_precision_score(labels[:, c], logits[:, c]) for c in (0, 2)]
    assert found["map"] == pytest.approx(np.mean(per_label), abs=1e-6)


def test_a_run_and_its_predictions(arguments: list[str], tmp_path: Path) -> None:  # noqa: F811
    """Prevents: a student that others load as a classifier of one class, and predictions that drop labels."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    own = [a for a in arguments if not a.startswith(("task", "data.path"))]
    file = write(tmp_path / "a.jsonl", table_of(240))
    table = ["task=table", f"data.train={file}", "data.label=labels", "data.multilabel=true", "pair.teacher.epochs=15"]
    table.append("data.near_copies=null")  # texts of a template
    result = finished([*own, *table, "trainer.max_epochs=6"], tmp_path / "run", "weighting=rwkd")
    assert result["teacher"]["test"]["macro_f1"] > 0.6 and set(result["student"]["test"]) == {
        "micro_f1",
        "macro_f1",
        "map",
    }
    weights = pq.read_table(tmp_path / "run/weights.parquet").to_pydict()
    assert [weight is None for weight in weights["w_bce"]] == [label[0] < 0 for label in weights["label"]]
    student = tmp_path / "run/student"
    network = AutoModelForSequenceClassification.from_pretrained(student)
    assert network.config.problem_type == "multi_label_classification"
    texts = ["the good table a1", "the bad a2"]
    classify = pipeline(
        "text-classification", model=str(student), tokenizer=AutoTokenizer.from_pretrained(student), top_k=None
    )
    expected = [{one["label"]: one["score"] for one in row} for row in classify(texts)]
    (tmp_path / "new.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts) + "\n")
    assert predict([str(tmp_path / "run"), str(tmp_path / "new.jsonl"), "-o", str(tmp_path / "out.jsonl")]) == 0
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    for row, scores in zip(found, expected, strict=True):
        assert {name: row[f"probability_{name}"] for name in NAMES} == pytest.approx(scores, abs=1e-5)
        assert row["predicted_labels"] == ";".join(name for name in NAMES if scores[name] > 0.5)

    with pytest.raises(UserError, match="has a multi-label or sigmoid head .*, and task tweets has one label per row"):
        finished([*arguments, f"pair.teacher.path={student}", "pair.teacher.epochs=0"], tmp_path / "x", "weighting=kd")
    with pytest.raises(UserError, match="is for classes, and task=table is a multi-label task; use"):
        finished([*own, *table], tmp_path / "x", "weighting=tgeo")
    with pytest.raises(UserError, match="so set them to 0"):
        finished([*own, *table, "data.label_noise=0.2"], tmp_path / "x", "weighting=kd")


def test_a_teacher_in_the_file(tmp_path: Path) -> None:
    """Prevents: probabilities of labels that are made to have the sum 1."""
    rows = [{**row, "said": [0.9, 0.9, 0.0]} for row in table_of()]
    file = write(tmp_path / "a.jsonl", rows)
    data = load_table(file, "text", "labels", multilabel=True, teacher_probabilities="said")
    shares = 1 / (1 + np.exp(-data.teacher_logits["train"]))
    np.testing.assert_allclose(shares, np.broadcast_to([0.9, 0.9, 1e-6], shares.shape), rtol=1e-4)
    with pytest.raises(UserError, match="data.multilabel=true has several labels per row; give data.teacher_prob"):
        load_table(file, "text", "labels", multilabel=True, teacher_logprobs="said")
