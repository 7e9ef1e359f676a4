import dataclasses
import hashlib

import numpy as np
import pytest

from rwkd_lightning.systems.text.data.task import TaskData, TaskSpec, build_split, column
from rwkd_lightning.utils.errors import UserError


def put(split, name, place, value):
    return lambda splits: splits[split][name].__setitem__(place, value)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (put("train", "label", 4, 3), ["'train'", "label 3", "idx 104"]),
        (put("train", "label", 4, -2), ["'train'", "label -2", "idx 104"]),
        (put("teacher_train", "label", 1, -1), ["'teacher_train'", "label -1", "idx 1"]),
        (put("meta", "label", 2, -1), ["'meta'", "label -1", "idx 202"]),
        (put("validation", "label", 0, -1), ["'validation'", "label -1", "idx 300"]),
        (lambda s: s["validation"].update(label=[-1] * 11), ["'validation'", "label -1", "hidden_splits"]),
        (put("train", "label", 4, None), ["'train'", "no label", "row 4"]),
        (put("meta", "idx", 3, None), ["'meta'", "no idx", "row 3"]),
        (put("train", "text", 3, None), ["'train'", "None", "idx 103"]),
        (put("train", "text", 3, " \u00a0\n"), ["'train'", "white space", "idx 103"]),
        (put("validation", "text", 2, "w\0o\0"), ["'validation'", "NUL", "'text'", "idx 302", "UTF-16"]),
        (lambda s: put("meta", "text", 4, s["train"]["text"][7])(s), ["'meta'", "'train'", "idx 204", "107"]),
        (lambda s: put("meta", "text", 4, s["teacher_train"]["text"][7])(s), ["'teacher_train'", "idx 204", " 7 "]),
        (lambda s: s["meta"].update(label=[0, 1] * 3 + [0]), ["'meta'", "label 2", "idx 101"]),
        (lambda s: s["train"].update(label=[1] * 45), ["'train'", "[1]"]),
        (lambda s: s.pop("meta"), ["'meta'"]),
        (lambda s: s["meta"].update(idx=[], label=[], text=[]), ["'meta'", "empty"]),
    ],
)
def test_broken_splits_are_refused(make_data, change, parts):
    """Prevents training on, or scoring, rows whose label means nothing."""
    with pytest.raises(UserError) as error:
        make_data(change=change)
    assert all(part in str(error.value) for part in parts) and "\n" not in str(error.value)


def test_unlabelled_training_rows_are_legal(make_data):
    """Prevents that semi-supervised training rows are refused, or that a teacher trains on rows without labels."""
    data = make_data(change=put("train", "label", 5, -1))
    assert column(data.splits["train"], "label")[5] == -1
    with pytest.raises(
        UserError, match="'train'.*label -1 in row idx 105.*with labels as 'teacher_train', a split of its own"
    ):
        TaskData(data.task, data.splits | {"teacher_train": data.splits["train"]})
    with pytest.raises(UserError, match=r"'train' .* has no row with a label \(45 without\)"):
        make_data(change=lambda s: s["train"].update(label=[-1] * 45))


@pytest.mark.parametrize("labels", [("a", "b", "c"), None])
def test_hidden_splits_carry_no_labels(make_data, labels):
    """Prevents that a split which is only predicted is scored on placeholders, or shows its labels."""
    data = make_data(labels)
    task = dataclasses.replace(data.task, hidden_splits=("test",))
    with pytest.raises(UserError, match="no split 'test'"):
        TaskData(task, data.splits)
    with pytest.raises(UserError, match="'test'.*row idx 0; expected (-1|nan) in every row"):
        TaskData(task, data.splits | {"test": build_split(task, rows(task, 5))})
    test = build_split(task, rows(task, 5) | {"label": [task.hidden_label] * 5})
    assert len(TaskData(task, data.splits | {"test": test}).fingerprint("test")) == 64


def rows(task, n):
    texts = {name: [f"{name} {i}" for i in range(n)] for name in task.text_columns}
    return {"idx": range(n), "label": [i % 3 for i in range(n)], **texts}


def test_pairs_that_share_one_text_are_no_leak(make_data):
    """Prevents that a premise, which MNLI has with three hypotheses, is refused; or that a leaked pair is not."""

    def share(*names):
        return lambda s: [put("meta", name, 4, s["train"][name][7])(s) for name in names]

    make_data(columns=("one", "two"), change=share("one"))
    with pytest.raises(UserError, match="idx 204.*107 in 'train'"):
        make_data(columns=("one", "two"), change=share("one", "two"))


def test_one_empty_text_of_two_is_legal_and_told(make_data, caplog):
    """Prevents that QQP, which has such rows, cannot be loaded, and that nobody hears of them."""

    def empty(splits):
        splits["train"]["two"][3:5] = ["", " "]

    make_data(columns=("one", "two"), change=empty)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "split 'train' of task 'toy' has 2 row(s) with one of two texts empty, the first in row idx 103"
    ]

    def both(splits):
        splits["train"]["one"][3] = splits["train"]["two"][3] = ""

    with pytest.raises(UserError, match="'train'.*row idx 103"):
        make_data(columns=("one", "two"), change=both)


def test_regression_labels_must_be_finite(make_data):
    """Prevents that one infinite label turns every weight into NaN, or that a row without a score is scored."""
    assert make_data(None).splits["train"].features["label"].dtype == "float32"
    assert np.isnan(column(make_data(None, change=put("train", "label", 4, float("nan"))).splits["train"], "label")[4])
    for split, idx in (("teacher_train", 4), ("meta", 204), ("validation", 304)):
        with pytest.raises(
            UserError, match=f"'{split}'.*label nan in row idx {idx}; expected a finite number .*drop it"
        ):
            make_data(None, change=put(split, "label", 4, float("nan")))
    with pytest.raises(
        UserError, match="label inf in row idx 104; expected a finite number, or nan for a row without a label"
    ):
        make_data(None, change=put("train", "label", 4, float("inf")))


def test_wrong_column_types_are_refused(make_data):
    """Prevents that a ClassLabel or an int32 idx reaches code that expects plain int64."""
    from datasets import ClassLabel, Value

    data = make_data()
    for feature in (ClassLabel(names=["a", "b", "c"]), Value("int32")):
        train = data.splits["train"].cast_column("label", feature)
        with pytest.raises(UserError, match="'train'"):
            TaskData(data.task, data.splits | {"train": train})
    words = data.splits["train"].cast_column("label", Value("string"))
    with pytest.raises(
        UserError, match=r"has string in column 'label', first '1' \(str\); give int64, as build_split does"
    ):
        TaskData(data.task, data.splits | {"train": words})


def test_fingerprint_is_of_the_content_alone(make_data):
    """Prevents that a stale teacher cache is taken for a fresh one, or a fresh one for stale."""
    data = make_data(columns=("one", "two"))
    reordered = data.splits["train"].select(range(45)).select_columns(["two", "label", "one", "idx"])
    same = TaskData(data.task, data.splits | {"train": reordered})
    assert same.fingerprint("train") == data.fingerprint("train")

    edits = [put("train", "label", 0, 2), put("train", "idx", 0, 9), put("train", "two", 0, "w9")]
    prints = {make_data(columns=("one", "two"), change=edit).fingerprint("train") for edit in edits}
    assert len(prints - {data.fingerprint("train")}) == 3

    def moved_border(splits):
        one, two = splits["train"]["one"], splits["train"]["two"]
        one[0], two[0] = one[0] + two[0], ""

    assert make_data(columns=("one", "two"), change=moved_border).fingerprint("train") != data.fingerprint("train")


def test_fingerprint_has_a_fixed_value(make_data):
    """Prevents that a change of the format silently makes each cache on disk stale, or equal to another's."""
    data = make_data(columns=("one", "two"))
    lines = [f'[{r["idx"]}, {r["label"]}, "{r["one"]}", "{r["two"]}"]\n' for r in data.splits["meta"]]
    assert data.fingerprint("meta") == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_monitor_must_be_a_metric():
    """Prevents that checkpoints are chosen by a metric that is never computed."""
    with pytest.raises(UserError, match="loss"):
        TaskSpec("t", ("text",), ("a", "b"), ("accuracy",), "loss", ("validation",))
