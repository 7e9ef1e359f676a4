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
    groups = together(["a", "b", "a", "c", "d"], ["1", "1", "2", "2", None])
    assert len(set(groups[:4])) == 1 and groups[4] not in groups[:4]


SENTENCES = ("the waiter was friendly and the soup was warm", "we waited an hour for a table near the kitchen door")


def near_copies(count: int) -> list[tuple[str, str]]:
    """Rows of two classes: each even one a text of its own, the next one the same with a signature."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(300)]
    texts = [" ".join(draw.choices(words, k=12)) for _ in range(count // 2)]
    return [(texts[i // 2] + " sent by me" * (i % 2), "xy"[i // 2 % 2]) for i in range(count)]


def test_near_copies_stay_together(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Prevents: a score for texts that the student has learnt, but for a signature; a switch that does nothing."""
    file = write(tmp_path / "a.csv", near_copies(400), "text,label")
    with caplog.at_level(logging.INFO):
        data = load_table(file, "text")
    assert "200 near-copies are kept with an earlier text (data.near_copies=0.8), such as " in caplog.text
    where = {int(idx): name for name in SPLITS for idx in data.splits[name]["idx"]}
    assert all(where[i] == where[i + 1] for i in range(0, 400, 2))
    assert [len(data.splits[name]) for name in SPLITS] == [280, 40, 40, 40]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        data = load_table(file, "text", near_copies=None)
    where = {int(idx): name for name in SPLITS for idx in data.splits[name]["idx"]}
    assert "near-copies" not in caplog.text and any(where[i] != where[i + 1] for i in range(0, 400, 2))


def test_near_copies_and_groups_are_one_chain(tmp_path: Path) -> None:
    """Prevents: a group that is torn apart by near-copies, or near-copies by a group."""
    rows = [(text, label, f"g{(i + 1) // 2}") for i, (text, label) in enumerate(near_copies(200)[:120])]
    rows += [(text, label, f"other{i}") for i, (text, label) in enumerate(near_copies(1000)[200:])]
    data = load_table(write(tmp_path / "a.csv", rows, "text,label,user"), "text", group="user")
    assert len({name for name in SPLITS for idx in data.splits[name]["idx"] if int(idx) < 120}) == 1


def test_near_copies_of_several_classes_are_no_contradiction(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Prevents: a warning of one text with two classes where a word between the texts makes the class."""
    rows = [(text, "xy"[i % 2]) for i, (text, _) in enumerate(near_copies(200))]
    with caplog.at_level(logging.INFO):
        load_table(write(tmp_path / "a.csv", rows, "text,label"), "text")
    assert "100 near-copies are kept" in caplog.text and "of several classes" not in caplog.text


def test_near_copies_across_given_splits_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Prevents: a given test split that repeats the training but for a signature, a mark or a case, unnoticed."""
    rows = near_copies(400)
    copied, marked = rows[1], (rows[2][0].upper() + "!", rows[2][1])
    test = write(tmp_path / "t.csv", [copied, copied, marked, (SENTENCES[0], "x"), (SENTENCES[1], "y")], "text,label")
    file = write(tmp_path / "a.csv", rows[::2], "text,label")
    apart = load_table(file, "text")
    with caplog.at_level(logging.INFO):
        data = load_table(file, "text", test=test)
    assert "1 of the 5 rows of data.test have a text of data.train" in caplog.text
    said = (
        f"2 of the 5 rows of data.test are near-copies of a text of data.train, such as {copied[0][:67] + '...'!r} of"
    )
    assert said in caplog.text and f"{rows[0][0][:67] + '...'!r}" in caplog.text
    assert len(data.splits["test"]) == 5 and texts(data, "meta") == texts(apart, "meta")


def test_a_chain_of_a_template_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Prevents: half of a table on one side of every cut without a word, since a program wrote its texts."""
    written = [(f"the sensor on the roof of the house number {i} has sent a value", "xy"[i % 2]) for i in range(200)]
    file = write(tmp_path / "a.csv", [*written, *near_copies(400)[::2]], "text,label")
    with caplog.at_level(logging.INFO):
        data = load_table(file, "text")
    assert "200 of the 400 rows are one chain of near-copies, such as 'the sensor on the roof of the" in caplog.text
    assert "raise data.near_copies=0.8, or set data.near_copies=null" in caplog.text
    assert {name for name in SPLITS for idx in data.splits[name]["idx"] if int(idx) < 200} == {"train"}
    with pytest.raises(UserError, match="too few to cut .*; give more, or .* with data.near_copies=null"):
        load_table(write(tmp_path / "b.csv", written, "text,label"), "text")
    assert len(load_table(str(tmp_path / "b.csv"), "text", near_copies=None).splits["test"]) == 20


@pytest.mark.parametrize("share", [0.2, 1.5, float("nan")])
def test_near_copies_that_cannot_be(share: float, rows: list[tuple[Any, ...]], tmp_path: Path) -> None:
    """Prevents: a threshold in percent, or one by which all texts of a language are copies."""
    with pytest.raises(UserError, match="data.near_copies is .*; give a number from 0.5 to 1, or null"):
        load_table(write(tmp_path / "a.csv", rows), "text", near_copies=share)


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
