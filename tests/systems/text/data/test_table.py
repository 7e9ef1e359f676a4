"""A task of a user's own tables: classes, cuts, weights, and what is reported of them."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from rwkd_lightning.systems.text.data.table import load_table, together
from rwkd_lightning.systems.text.data.task import TaskData, column
from rwkd_lightning.utils.errors import UserError
from tests.run.conftest import arguments, backbone, tweets  # noqa: F401 (fixtures)
from tests.run.test_pipeline_run import finished

SPLITS = ("train", "meta", "validation", "test")


def write(file: Path, rows: list[tuple[Any, ...]], header: str = "text,label,group,weight") -> str:
    file.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return str(file)


@pytest.fixture
def rows() -> list[tuple[Any, ...]]:
    """200 texts of three classes, one of them rare; 50 groups; weights."""
    draw = random.Random(0)
    classes = ["10"] * 120 + ["9"] * 60 + ["100"] * 20
    return [(f"text number {i}", y, f"g{i % 50}", round(draw.random(), 3)) for i, y in enumerate(classes)]


def texts(data: TaskData, split: str) -> list[str]:
    return list(data.splits[split]["text"])


def test_cuts(rows: list[tuple[Any, ...]], tmp_path: Path) -> None:
    """Prevents: a row on two sides or on none, classes that a cut misses, a label that belongs to another row, other
    cuts of the same seed, and classes in the order of texts ("10" < "9").
    """
    file = write(tmp_path / "a.csv", rows)
    data, again, other = (load_table(file, "text", split_seed=seed) for seed in (0, 0, 1))
    assert data.task.label_names == ("9", "10", "100") and data.task.metrics == ("accuracy", "macro_f1")
    assert sorted(text for name in SPLITS for text in texts(data, name)) == sorted(row[0] for row in rows)
    label_of = {row[0]: row[1] for row in rows}
    for name in SPLITS:
        labels = [data.task.label_names[y] for y in data.splits[name]["label"]]
        assert labels == [label_of[text] for text in texts(data, name)]
        assert [int(i) for i in data.splits[name]["idx"]] == [int(t.split()[-1]) for t in texts(data, name)]
        counts = [labels.count(y) / len(labels) for y in ("9", "10", "100")]
        assert counts == pytest.approx([0.3, 0.6, 0.1], abs=0.05)
        assert texts(data, name) == texts(again, name)
    assert [len(data.splits[name]) for name in SPLITS] == [140, 20, 20, 20]
    assert texts(data, "test") != texts(other, "test")
    assert data.splits["teacher_train"] is data.splits["train"]


def test_copies_and_groups_stay_together(tmp_path: Path) -> None:
    """Prevents: a test that the student has seen, by another mark, case or column."""
    rows = [(f"{'Same ' if i % 2 else 'same, '}text {i // 2}", i // 2 % 2, f"g{i // 10}", 1) for i in range(400)]
    rows = [(f'"{text}"', *rest) for text, *rest in rows]
    plain = load_table(write(tmp_path / "a.csv", rows), "text")
    grouped = load_table(write(tmp_path / "b.csv", rows), "text", group="group")
    for data, key in ((plain, 1), (grouped, 10)):
        where = {int(idx) // (2 if key == 1 else 10): name for name in SPLITS for idx in data.splits[name]["idx"]}
        for name in SPLITS:
            assert {where[int(idx) // (2 if key == 1 else 10)] for idx in data.splits[name]["idx"]} == {name}


def test_a_chain_of_copies_and_groups_is_one() -> None:
    """Prevents: two groups that share a text on two sides."""
    groups = together([["a", "b", "a", "c", "d"]], ["1", "1", "2", "2", None])
    assert len(set(groups[:4])) == 1 and groups[4] not in groups[:4]


def test_given_splits_are_taken_as_they_are(
    rows: list[tuple[Any, ...]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Prevents: a given test split that is cut again, or whose texts in the training go unnoticed."""
    test = write(tmp_path / "test.csv", [("new text", "9"), (rows[0][0], "10"), ("other", "100")], "text,label")
    with caplog.at_level(logging.INFO):
        data = load_table(write(tmp_path / "a.csv", rows), "text", test=test)
    assert texts(data, "test") == ["new text", rows[0][0], "other"] and len(data.splits["validation"]) == 20
    assert "1 of the 3 rows of data.test have a text of data.train" in caplog.text


def test_two_columns_numbers_and_rows_without_a_label(tmp_path: Path) -> None:
    """Prevents: a regression whose cuts miss a part of the range, and a teacher trained on rows without label."""
    rows = [(f"a{i}", f"b{i}", i / 10 if i % 10 else "") for i in range(300)]
    data = load_table(write(tmp_path / "a.csv", rows, "one,two,y"), ["one", "two"], "y", regression=True)
    assert data.task.is_regression and data.task.text_columns == ("one", "two")
    train, teacher = (column(data.splits[name], "label") for name in ("train", "teacher_train"))
    assert np.isnan(train).sum() == 30 and not np.isnan(teacher).any() and len(teacher) == len(train) - 30
    for name in ("meta", "validation", "test"):
        labels = column(data.splits[name], "label")
        assert np.isfinite(labels).all() and set((labels // 6).astype(int)) == {0, 1, 2, 3, 4}


def test_weights_belong_to_their_rows(rows: list[tuple[Any, ...]], tmp_path: Path) -> None:
    """Prevents: the weights of the file's first rows given to those that a cut has left."""
    data = load_table(write(tmp_path / "a.csv", rows), "text", weight="weight")
    expected = [rows[int(idx)][3] for idx in data.splits["train"]["idx"]]
    assert data.extras["sample_weight"].tolist() == pytest.approx(expected)


def test_the_summary_says_what_was_understood(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Prevents: hours of training on labels that contradict each other, or on one class."""
    rows = [(f"t {i}", "often" if i < 190 else "rare") for i in range(200)] + [("t 0", "rare"), ("T: 1!", "often")]
    with caplog.at_level(logging.INFO):
        load_table(write(tmp_path / "a.csv", rows, "text,label"), "text")
    for said in (
        "classes: often 191, rare 11",
        "class 'often' has 191 rows, class 'rare' 11: look at macro_f1",
        "1 texts (or groups) have rows of several classes",
        "2 rows repeat the text",
        "2 words in the median, 2 in the longest",
    ):
        assert said in caplog.text, said


WRONG: dict[str, tuple[list[tuple[Any, ...]], dict[str, Any], str]] = {
    "one class": ([(f"t{i}", "a") for i in range(9)], {}, r"the class\(es\) \['a'\]; give two or more"),
    "as many as rows": ([(f"t{i}", f"y{i}") for i in range(40)], {}, "40 different values in 40 rows.*regression=true"),
    "numbers": ([(f"t{i}", i % 4 + 0.5) for i in range(40)], {}, "numbers such as 0.5; set data.regression=true"),
    "no number": (
        [("t", "x")] * 3,
        {"regression": True},
        "line 2 has 'x' in column 'label'; give a fin",
    ),
    "infinity": ([("t", "inf")] * 3, {"regression": True}, "line 2 has 'inf'"),
    "no text": ([(" ", "a"), ("t", "b")] * 9, {}, "line 2 has no text but white space"),
    "unknown class": ([("t", "a"), ("u", "b")] * 9, {"classes": ["a", "c"]}, "line 3 has 'b'.*not among data.classes"),
    "absent class": ([("t", "a"), ("u", "b")] * 9, {"classes": ["a", "b", "c"]}, "no row of class 'c'"),
    "too few texts": ([("t", "a"), ("u", "b")] * 9, {}, "2 distinct texts .* too few to cut a meta split"),
    "label as text": ([("t", "a")], {"text": "label"}, "and another one as label"),
    "three texts": ([("t", "a")], {"text": ["x", "y", "z"]}, "one or two columns of text"),
}


@pytest.mark.parametrize("name", WRONG)
def test_labels_that_cannot_be(name: str, tmp_path: Path) -> None:
    """Prevents: a training on a column of names, of numbers taken for classes, or of one class."""
    rows, options, said = WRONG[name]
    with pytest.raises(UserError, match=said) as caught:
        load_table(write(tmp_path / "a.csv", rows, "text,label"), **{"text": "text", **options})
    assert "\n" not in str(caught.value)


def test_no_file_is_named() -> None:
    """Prevents: an error of Hydra about an interpolation, for the first command that anybody types."""
    with pytest.raises(UserError, match="data.train names no file; give data.train=FILE"):
        load_table(None)


@pytest.mark.parametrize("weight", ["", "-1", "nan", "much"])
def test_weights_that_cannot_be(weight: str, rows: list[tuple[Any, ...]], tmp_path: Path) -> None:
    """Prevents: a weight of 0, or of 1, for a cell that holds none."""
    rows[7] = (*rows[7][:3], weight)
    with pytest.raises(UserError, match="line 9 has '.*' in column 'weight'; give"):
        load_table(write(tmp_path / "a.csv", rows), "text", weight="weight")


def test_a_run(arguments: list[str], tmp_path: Path) -> None:  # noqa: F811
    """Prevents: a table that is read and cannot be trained on; weights that do not reach the student."""
    rows = [(f"{'good' if i % 2 else 'bad'} table {i}", "yes" if i % 2 else "no", i % 5) for i in range(120)]
    own = [a for a in arguments if not a.startswith(("task", "data.path"))]
    file = write(tmp_path / "a.csv", rows, "body,kind,w")
    table = ["task=table", f"data.train={file}", "data.text=body", "data.label=kind", "data.weight=w"]
    result = finished([*own, *table, "pair.teacher.epochs=1"], tmp_path / "run", "weighting=given")
    assert set(result["student"]["test"]) == {"accuracy", "macro_f1"} and result["task"] == "table"
    weights = pq.read_table(tmp_path / "run/weights.parquet").to_pydict()
    assert weights["w_ce"] == pytest.approx([0.5 * (idx % 5) for idx in weights["idx"]])
