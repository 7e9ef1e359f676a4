"""A teacher's outputs in columns of a table: probabilities, logits, the likeliest classes of a language model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from rwkd_lightning.systems.text.data.table import load_table
from rwkd_lightning.systems.text.data.table_teacher import spread
from rwkd_lightning.systems.text.data.task import column
from rwkd_lightning.terms import AnnealedMSE, CrossEntropy, DistillationKL, LogitMSE, SoftCrossEntropy, Term
from rwkd_lightning.utils.errors import UserError
from tests.run.conftest import arguments, backbone, tweets  # noqa: F401 (fixtures)
from tests.run.test_pipeline_run import finished

CLASSES = ("no", "perhaps", "yes")
SETTING = {"text": "text", "teacher_probabilities": ["p_no", "p_perhaps", "p_yes"]}


def table_of(count: int = 60) -> list[dict[str, Any]]:
    """Rows whose teacher believes the label, each in a degree of its own; every fifth row has none."""
    found = []
    for i in range(count):
        shares = np.full(3, 0.1)
        shares[i % 3] += 0.7 - i / 1000
        shares[(i + 1) % 3] += i / 1000
        said = {f"p_{name}": None if i % 5 == 4 else float(x) for name, x in zip(CLASSES, shares, strict=True)}
        found.append({"text": f"text number {i}", "label": CLASSES[i % 3], **said})
    return found


def write(file: Path, rows: list[dict[str, Any]]) -> str:
    file.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return str(file)


def softmax(logits: np.ndarray) -> np.ndarray:
    shares: np.ndarray = np.exp(logits.astype(np.float64))
    return shares / shares.sum(1, keepdims=True)


def test_every_form_gives_the_same(tmp_path: Path) -> None:
    """Prevents: what the teacher says of one row given to another, in the order of other classes, or lost for a split;
    a form that means something else than the others.
    """
    rows = table_of()
    for row in rows:
        shares = [row[f"p_{name}"] for name in CLASSES]
        known = shares[0] is not None
        row["logits"] = [math.log(x) + 3.0 for x in shares] if known else None
        row["list"] = shares if known else None
        row["words"] = {name: math.log(x) for name, x in zip(CLASSES, shares, strict=True)} if known else None
        row["tokens"] = (
            [{"token": f" {name.title()}", "logprob": math.log(x)} for name, x in zip(CLASSES, shares, strict=True)]
            if known
            else []
        )
    file = write(tmp_path / "a.jsonl", rows)
    forms: list[dict[str, Any]] = [
        {"teacher_probabilities": SETTING["teacher_probabilities"]},
        {"teacher_probabilities": {"yes": "p_yes", "no": "p_no", "perhaps": "p_perhaps"}},
        {"teacher_probabilities": "list"},
        {"teacher_logits": "logits"},
        {"teacher_logprobs": "words"},
        {"teacher_logprobs": "tokens"},
    ]
    for form in forms:
        data = load_table(file, "text", **form)
        assert set(data.teacher_logits) == {"train", "meta", "validation", "test"}
        for split in ("train", "meta", "validation", "test"):
            expected = np.array(
                [[rows[i][f"p_{c}"] or np.nan for c in CLASSES] for i in column(data.splits[split], "idx")]
            )
            np.testing.assert_allclose(softmax(data.teacher_logits[split]), expected, atol=1e-6, err_msg=str(form))


def test_given_splits_may_lack_the_columns(tmp_path: Path) -> None:
    """Prevents: a test file without a teacher that cannot be read, or whose rows get the teacher of other rows."""
    train, test = write(tmp_path / "a.jsonl", table_of()), tmp_path / "test.csv"
    test.write_text("text,label\nsome text,yes\nanother,no\na third,perhaps\n")
    data = load_table(train, **SETTING, test=str(test))
    assert np.isnan(data.teacher_logits["test"]).all() and data.teacher_logits["test"].shape == (3, 3)
    test.write_text("text,label,p_no,p_perhaps,p_yes\nsome text,yes,.1,.2,.7\nanother,no,,,\na third,perhaps,0,1,0\n")
    said = softmax(load_table(train, **SETTING, test=str(test)).teacher_logits["test"])
    assert said[0].tolist() == pytest.approx([0.1, 0.2, 0.7]) and np.isnan(said[1]).all()
    assert said[2, 1] == pytest.approx(1.0, abs=1e-5)


def test_the_likeliest_classes_alone() -> None:
    """Prevents: probability given to a class that the model thinks less likely than all that it lists, and a token that
    is no class taken for one.
    """
    third = [math.log(x) for x in (0.6, 0.2, 0.1)]
    listed = [("Yes", third[0]), ("yes", third[1]), ("maybe", third[2])]
    # 0.1 is left for "no" and "perhaps", 0.05 each, below the least likely one listed
    assert spread(listed, CLASSES) == pytest.approx([0.05 / 0.9, 0.05 / 0.9, 0.8 / 0.9])
    few = [("yes", math.log(0.5)), ("no", math.log(0.01))]  # 0.49 is left, and none listed has less than 0.01
    assert spread(few, CLASSES) == pytest.approx([0.01 / 0.52, 0.01 / 0.52, 0.5 / 0.52])
    assert spread([("maybe", -0.1)], CLASSES) is None


WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "sum": (
        {"p_no": 0.5, "p_perhaps": 0.5, "p_yes": 0.5},
        {},
        "line 3, data.teacher_probabilities: 0.5, 0.5, 0.5 are no",
    ),
    "negative": ({"p_no": -0.2, "p_perhaps": 0.6, "p_yes": 0.6}, {}, "are no probabilities"),
    "half empty": ({"p_no": None}, {}, "line 3 has nothing in column 'p_no' of data.teacher_probabilities"),
    "word": ({"p_no": "high"}, {}, "line 3 has 'high' in column 'p_no'"),
    "infinite": ({"p_no": float("inf")}, {}, "line 3 has inf in column 'p_no'"),
    "too few columns": ({}, {"teacher_probabilities": ["p_no", "p_yes"]}, "names 2 columns, and there are 3 classes"),
    "other names": (
        {},
        {"teacher_probabilities": {"no": "p_no", "maybe": "p_perhaps", "yes": "p_yes"}},
        "names the classes no, maybe, yes, and the labels are no, perhaps, yes",
    ),
    "missing column": (
        {},
        {"teacher_probabilities": ["p_no", "p_perhaps", "p_oui"]},
        "no column 'p_oui'; did you mean",
    ),
    "two forms": ({}, {"teacher_logits": ["p_no", "p_perhaps", "p_yes"]}, "give one of them"),
    "no list": (
        {},
        {"teacher_probabilities": "p_no"},
        "in column 'p_no'; give a list of 3 numbers, one for each of no",
    ),
    "no words": ({}, {"teacher_probabilities": None, "teacher_logprobs": "p_no"}, "give the likeliest classes"),
    "other order": (
        {},
        {"teacher_probabilities": ["p_yes", "p_no", "p_perhaps"]},
        "agrees with 0% of the labels in the order no, perhaps, yes, and with 100% if its columns are of 'yes', 'no', ",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_outputs_that_cannot_be(name: str, tmp_path: Path) -> None:
    """Prevents: a student of numbers that are no probabilities, or those of other classes."""
    changed, options, said = WRONG[name]
    rows = table_of()
    rows[2] |= changed
    with pytest.raises(UserError, match=said) as caught:
        load_table(write(tmp_path / "a.jsonl", rows), **{**SETTING, **options})
    assert "\n" not in str(caught.value)


def test_a_regression(tmp_path: Path) -> None:
    """Prevents: the teacher's number that is lost, or taken for a probability."""
    rows = [{"text": f"t{i}", "label": i / 7, "t": i / 7 + 0.1 if i % 4 else None} for i in range(80)]
    file = write(tmp_path / "a.jsonl", rows)
    data = load_table(file, "text", regression=True, teacher_logits="t")
    for split in ("train", "test"):
        expected = [rows[i]["t"] if rows[i]["t"] is not None else np.nan for i in column(data.splits[split], "idx")]
        np.testing.assert_allclose(data.teacher_logits[split][:, 0], expected, rtol=1e-6)
    with pytest.raises(UserError, match="takes one column of the teacher's numbers"):
        load_table(file, "text", regression=True, teacher_probabilities=["t"])


@pytest.mark.parametrize("term", [DistillationKL(), SoftCrossEntropy(), LogitMSE(), AnnealedMSE()])
@pytest.mark.parametrize("tokens", [0, 5])
def test_a_term_has_no_value_where_the_teacher_says_nothing(term: Term, tokens: int) -> None:
    """Prevents: a student that learns the stand-in of a row without a teacher, and other rows that change with it."""
    shape = (4, tokens, 3) if tokens else (4, 3)
    torch.manual_seed(0)
    logits = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    known = torch.tensor([True, False, True, False])
    batch = {
        "index": torch.arange(4),
        "teacher_logits": torch.randn(shape, dtype=torch.float64),
        "progress": torch.tensor(0.3),
    }
    whole = term({"logits": logits}, batch).detach()
    batch["teacher_logits_known"] = known
    losses = term({"logits": logits}, batch)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    torch.testing.assert_close(losses.detach(), torch.where(known, whole, 0.0))
    assert not gradient[~known].any() and bool(gradient[known].ne(0).all())
    assert torch.equal(term.valid(batch), known)
    assert CrossEntropy().valid({**batch, "labels": torch.zeros(4, dtype=torch.long)}).all()  # speaks for the labels


def test_a_run_without_a_teacher_model(arguments: list[str], tmp_path: Path) -> None:  # noqa: F811
    """Prevents: a run that needs the model whose outputs are in the file; rows without a teacher that it teaches."""
    rows = table_of(150)
    own = [a for a in arguments if not a.startswith(("task", "data.path", "pair.teacher.path"))]
    table = ["task=table", f"data.train={write(tmp_path / 'a.jsonl', rows)}", "pair.teacher.path=file"]
    columns = ["data.teacher_probabilities={no: p_no, perhaps: p_perhaps, yes: p_yes}", "data.classes=[no,perhaps,yes]"]
    result = finished([*own, *table, *columns], tmp_path / "run", "weighting=rwkd")
    assert result["cost"]["teacher_parameters"] is None and result["teacher"]["test"]["accuracy"] == 1.0
    weights = pq.read_table(tmp_path / "run/weights.parquet").to_pydict()
    silent = [idx % 5 == 4 for idx in weights["idx"]]
    assert [weight is None for weight in weights["w_kd"]] == silent and any(silent)
    assert [loss is None for loss in weights["loss_teacher_ce"]] == silent
    assert [w for w, none in zip(weights["w_ce"], silent, strict=True) if none] == pytest.approx([1.0] * sum(silent))
    for setting, said in (
        ("terms=[ce,kd,hidden]", "'hidden' reads the states of one teacher, and there is no model of it"),
        ("pair.student.path=teacher", "starts from the teacher's weights, and there is not one model"),
        ("pair.teacher.path=[a,b]", r"data bring the teacher's outputs .* add pair.teacher=file"),
    ):
        with pytest.raises(UserError, match=said):
            finished([*own, *table, *columns, setting], tmp_path / "wrong", "weighting=kd")
    with pytest.raises(UserError, match=r"takes the teacher's outputs from columns of the data, and none are named"):
        finished([*own, *table], tmp_path / "wrong", "weighting=kd")
