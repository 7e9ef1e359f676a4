import hashlib
import re

import pytest

from rwkd_lightning.data.task import TaskData, TaskSpec, column
from rwkd_lightning.errors import UserError


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
        (put("train", "text", 3, None), ["'train'", "None", "idx 103"]),
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


def test_unlabelled_rows_are_legal_where_they_do_no_harm(make_data):
    """Prevents that semi-supervised training rows and hidden test labels are refused."""

    def change(splits):
        splits["train"]["label"][5] = -1
        splits["validation"]["label"] = [-1] * 11

    assert column(make_data(change=change).splits["train"], "label")[5] == -1


def test_regression_labels_must_be_finite(make_data):
    """Prevents that one NaN label turns every weight into NaN."""
    assert make_data(None).splits["train"].features["label"].dtype == "float32"
    with pytest.raises(UserError, match=re.escape("label nan in row idx 104")):
        make_data(None, change=put("train", "label", 4, float("nan")))


def test_wrong_column_types_are_refused(make_data):
    """Prevents that a ClassLabel or an int32 idx reaches code that expects plain int64."""
    from datasets import ClassLabel, Value

    data = make_data()
    for feature in (ClassLabel(names=["a", "b", "c"]), Value("int32")):
        train = data.splits["train"].cast_column("label", feature)
        with pytest.raises(UserError, match="'train'"):
            TaskData(data.task, data.splits | {"train": train})


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
