"""What a column of a split takes: whole numbers, text, and scores of a regression; nothing is cast to be one."""

from __future__ import annotations

import datetime
import decimal
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from rwkd_lightning.systems.text.data.task import TaskSpec, build_split, split_from_table
from rwkd_lightning.utils.errors import UserError

SPEC = TaskSpec("toy", ("text",), ("negative", "positive"), ("accuracy",), "accuracy", ("validation",))
SCORE = TaskSpec("toy", ("text",), None, ("pearson",), "pearson", ("validation",))
CLASSES = r"give the number of a class as an int: 0 \(negative\), 1 \(positive\)"
WHOLE, NUMBER, TEXT = r"give whole numbers \(int\)", r"give a number \(int or float\)", r"give text \(str\)"


def columns(name: str, value: Any) -> dict[str, list[Any]]:
    """Three rows, the last of which has the value."""
    good = {"idx": [10, 11, 12], "label": [0, 1, 1], "text": ["a", "b", "c"]}
    return good | {name: [*good[name][:2], value]}


REFUSED = [
    *(
        (SPEC, "label", value, f"{re.escape(shown)}.*; {CLASSES}")
        for value, shown in [
            (0.9, "0.9 (float)"),
            (0.5, "0.5 (float)"),
            (1.0, "1.0 (float)"),
            (float("nan"), "nan (float)"),
            ("1", "'1' (str)"),
            ("yes", "'yes' (str)"),
            (b"1", "b'1' (bytes)"),
            (True, "True (bool)"),
            (np.bool_(True), "True (bool)"),
            (np.float32(0.75), "0.75 (float)"),
            (np.float64(1), "1.0 (float)"),
            (torch.tensor(0.25), "0.25 (float)"),
            (torch.tensor(True), "True (bool)"),
            (pa.scalar(1.0), "1.0 (float)"),
            ([1], "[1] (list)"),
            (1j, "1j (complex)"),
            (np.array([0, 1]), "array([0, 1]) (ndarray)"),
            (torch.tensor([[1], [2]]), "tensor([[1], [2]]) (Tensor)"),
            (np.datetime64(1, "ns"), "(datetime64)"),
            (datetime.date(2020, 1, 2), "datetime.date(2020, 1, 2) (date)"),
            (2**63, "9223372036854775808 (int)"),
            (np.uint64(2**64 - 1), "18446744073709551615 (int)"),
            ("x" * 999, "xxx... (str)"),
        ]
    ),
    *((SPEC, "idx", value, WHOLE) for value in (1.0, 0.5, "1", True, np.float32(3), float("nan"))),
    (SPEC, "idx", -(2**63) - 1, "give a whole number that fits into 64 bits"),
    *((SPEC, "text", value, TEXT) for value in (7, 1.5, True, np.int64(7), float("nan"), ["a"], {"a": 1})),
    (SPEC, "text", b"a", r"give text \(str\), as bytes.decode makes of bytes"),
    *((SPEC, "text", value, "it holds half a surrogate pair") for value in ("a\ud800", "\udfffb", "caf\udce9")),
    *((SCORE, "label", value, NUMBER) for value in ("3.5", True, decimal.Decimal("3.5"), 1j, b"3", np.bool_(False))),
    *(
        (SCORE, "label", value, "give a number that float32 can hold")
        for value in (1e39, -1e39, 1e-50, 10**400, 2**24 + 1, np.float64(4e38))
    ),
]


@pytest.mark.parametrize(("task", "name", "value", "said"), REFUSED)
def test_what_is_not_of_the_column_is_refused(task: TaskSpec, name: str, value: Any, said: str) -> None:
    """Prevents: soft labels and ratings that are cut to whole numbers, digits and booleans that become numbers, numbers
    that become text, scores that become infinite or 0; and a traceback.
    """
    at = "row 2" if name == "idx" else "row idx 12"
    for split, where in ((None, "a split of task 'toy'"), ("train", "split 'train' of task 'toy'")):
        with pytest.raises(
            UserError, match=f"^{where} has .* in column '{name}', {at}; .*{said.split('.*; ')[-1]}"
        ) as error:
            build_split(task, columns(name, value), split)
        message = str(error.value)
        assert re.search(said, message) and message.isprintable() and len(message) < 260


@pytest.mark.parametrize(
    "integers",
    [
        [0, 1, 1],
        np.array([0, 1, 1]),
        np.array([0, 1, 1], np.uint8),
        [np.int16(0), np.int64(1), 1],
        torch.tensor([0, 1, 1]),
        pa.array([0, 1, 1]),
        range(3),
        (n for n in (0, 1, 1)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whole_numbers_of_every_kind_are_taken(integers: Any) -> None:
    """Prevents: exact values that are refused because they are numpy's, torch's or Arrow's."""
    given = list(integers)
    for name in ("idx", "label"):
        made = build_split(SPEC, columns("text", np.str_("c")) | {name: iter(given)})
        assert made[name][:] == [n.as_py() if hasattr(n, "as_py") else int(n) for n in given]
        assert made.features[name].dtype == "int64"
        assert made["text"][:] == ["a", "b", "c"]
    assert build_split(SPEC, columns("label", None))["label"][:] == [0, 1, None]  # `TaskData` says in which split


def test_scores_are_the_nearest_float32() -> None:
    """Prevents: a score that is refused because it is whole, or has no exact float32, as most have not."""
    values = [3, 3.8, np.float64(0.1), np.float16(0.5), -1, 0.0, float("nan"), np.float32(2.2), 2**24]
    made = build_split(SCORE, {"idx": range(9), "label": values, "text": ["a"] * 9})
    np.testing.assert_array_equal(made.with_format("numpy")["label"][:], np.array(values, dtype=np.float32))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": [0, 1]}, r"columns of different lengths \{'idx': 3, 'label': 2, 'text': 3\}"),
        ({"text": "abc"}, "has one str as column 'text'; give a list"),
    ],
)
def test_columns_that_are_none(change: dict[str, Any], said: str) -> None:
    """Prevents: rows of another row's label, and a text that is read as a column of letters."""
    with pytest.raises(UserError, match=said):
        build_split(SPEC, columns("idx", 12) | change)
    missing = columns("idx", 12)
    del missing["label"]
    with pytest.raises(UserError, match=r"has no column 'label', only \['idx', 'text'\]; add it"):
        build_split(SPEC, missing)


@pytest.mark.parametrize(
    ("task", "name", "array", "said"),
    [
        (SPEC, "label", pa.array([0.0, 1.0, 1.0]), r"0.0 \(float\).*row idx 10"),
        (SPEC, "label", pa.array(["0", "1", "1"]), r"'0' \(str\).*row idx 10"),
        (SPEC, "label", pa.array([False, True, True]), r"False \(bool\)"),
        (SPEC, "label", pa.array([0, 1, 2**63], pa.uint64()), r"9223372036854775808 \(int\).*row idx 12"),
        (SPEC, "idx", pa.array([1.0, 2.0, 3.0]), r"1.0 \(float\).*row 0"),
        (SPEC, "text", pa.array([1, 2, 3]), r"1 \(int\).*row idx 10"),
        (SPEC, "text", pa.array([b"a", b"b", b"c"]), r"b'a' \(bytes\)"),
        (SPEC, "text", pa.array([datetime.date(2020, 1, 2)] * 3), r"\(date\)"),
        (SCORE, "label", pa.array([0.5, 1e39, 1.0]), r"1e\+39 \(float\).*row idx 11.*float32"),
        (SCORE, "label", pa.array([1, 2, 2**24 + 1]), r"16777217 \(int\).*row idx 12.*float32"),
        (SCORE, "label", pa.array(["0.5", "1", "1"]), r"'0.5' \(str\)"),
    ],
)
def test_a_table_is_not_cast_either(task: TaskSpec, name: str, array: pa.Array, said: str) -> None:
    """Prevents: Arrow's own casts, which read digits as numbers, numbers as text and booleans as both."""
    table = pa.table(columns("idx", 12))
    with pytest.raises(UserError, match=said):
        split_from_table(task, table.set_column(table.column_names.index(name), name, array))


def test_tables_of_every_plain_type() -> None:
    """Prevents: integers of 8 bits or text with 64-bit offsets that are refused or changed."""
    table = pa.table(
        {
            "more": [9, 9],
            "text": pa.array(["a", "b"], pa.large_string()),
            "label": pa.array([1, 0], pa.int8()),
            "idx": pa.array([4, 7], pa.uint32()),
        }
    )
    made = split_from_table(SPEC, table)
    assert made.to_list() == [{"idx": 4, "label": 1, "text": "a"}, {"idx": 7, "label": 0, "text": "b"}]
    assert split_from_table(SCORE, table)["label"][:] == [1.0, 0.0]
