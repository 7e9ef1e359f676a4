"""Tables of a user's own with anything in them: read, or refused in one line."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rwkd_lightning.data.table_file import read_table
from rwkd_lightning.systems.text.data.table import load_table
from rwkd_lightning.utils.errors import UserError

ONE_BY_ONE = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
CELLS = st.one_of(
    st.text(max_size=12), st.none(), st.integers(), st.floats(), st.booleans(), st.lists(st.integers(), max_size=2)
)
CSV = st.lists(
    st.sampled_from(['"', ",", "\n", "\r\n", "\0", "\ufeff", "text", "label", "a", "b", "é", "\ud7ff", " ", ";", "\t"]),
    max_size=40,
).map("".join)


def one_line(error: UserError) -> None:
    """A message is one line and not empty."""
    assert str(error) and "\n" not in str(error) and len(str(error)) < 2000


@ONE_BY_ONE
@given(content=st.one_of(st.binary(max_size=200), CSV.map(lambda text: f"text,label\n{text}".encode())))
@pytest.mark.parametrize("kind", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
def test_any_bytes(kind: str, content: bytes, tmp_path: Path) -> None:
    """Prevents: a traceback for a file that is no table, and rows whose columns have different lengths."""
    file = tmp_path / f"rows{kind}"
    file.write_bytes(content)
    try:
        table = read_table(str(file), ["text", "label"], "data.train")
    except UserError as error:
        one_line(error)
    else:
        assert {len(column) for column in table.columns.values()} == {len(table)}
        assert table.at(len(table) - 1).startswith(f"data.train={str(file)!r}")


@ONE_BY_ONE
@given(
    rows=st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=30),
    regression=st.booleans(),
    weighted=st.booleans(),
)
def test_any_values(rows: list[tuple[Any, Any, Any]], regression: bool, weighted: bool, tmp_path: Path) -> None:
    """Prevents: a traceback for a label, text or weight that is none, and a row that is lost between the splits."""
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(dict(zip(("text", "label", "w"), row, strict=True))) for row in rows))
    try:
        data = load_table(str(file), "text", regression=regression, weight="w" if weighted else None)
    except UserError as error:
        one_line(error)
    else:
        assert sum(len(data.splits[name]) for name in ("train", "meta", "validation", "test")) == len(rows)


SAID = st.one_of(
    CELLS,
    st.lists(st.floats(0, 1), min_size=2, max_size=2),
    st.dictionaries(st.sampled_from(["a", "b", "c", ""]), st.one_of(st.floats(), st.none(), st.text(max_size=3))),
    st.lists(st.fixed_dictionaries({"token": CELLS, "logprob": st.one_of(st.floats(), CELLS)}), max_size=3),
)


@ONE_BY_ONE
@given(said=st.lists(SAID, min_size=24, max_size=24), kind=st.sampled_from(["probabilities", "logits", "logprobs"]))
def test_any_outputs_of_a_teacher(said: list[Any], kind: str, tmp_path: Path) -> None:
    """Prevents: a traceback for a cell that holds no outputs, and one that reaches the training as NaN or infinity."""
    rows = [{"text": f"t{i}", "label": "ab"[i % 2], "said": cell} for i, cell in enumerate(said)]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    try:
        data = load_table(str(file), "text", **{f"teacher_{kind}": "said"})  # type: ignore[arg-type]
    except UserError as error:
        one_line(error)
    else:
        for logits in data.teacher_logits.values():
            none = np.isnan(logits).all(1)
            assert logits.shape[1] == 2 and np.isfinite(logits[~none]).all()


@ONE_BY_ONE
@given(labels=st.lists(st.sampled_from(["x", "y", "z", ""]), min_size=1, max_size=60), copies=st.integers(1, 4))
def test_any_classes(labels: list[str], copies: int, tmp_path: Path) -> None:
    """Prevents: a cut that parts copies, leaves a class out of the training, or loses a row, for any distribution."""
    file = tmp_path / "rows.csv"
    rows = [f"text {row // copies},{label}" for row, label in enumerate(labels)]
    file.write_text("\n".join(["text,label", *rows]) + "\n")
    try:
        data = load_table(str(file), "text")
    except UserError as error:
        one_line(error)
        return
    where: dict[str, set[str]] = {}
    for name in ("train", "meta", "validation", "test"):
        for text in data.splits[name]["text"]:
            where.setdefault(text, set()).add(name)
    assert all(len(names) == 1 for names in where.values())
    assert sum(len(data.splits[name]) for name in ("train", "meta", "validation", "test")) == len(labels)
    assert {y for y in data.splits["train"]["label"] if y >= 0} == set(range(len({x for x in labels if x})))


NAMED = st.one_of(
    st.sampled_from(["a;b", "a", "b;c", "a;;b", " c ; a ", ";", ""]),
    st.none(),
    st.lists(st.sampled_from(["a", "b", "c", "b;c", " ", "a"]), max_size=3),
    CELLS,
)
FLAG = st.sampled_from([0, 1, 0.0, 1.0, "0", " yes ", True, None, "", 2])


@ONE_BY_ONE
@given(
    rows=st.lists(st.tuples(st.integers(0, 60), NAMED, FLAG, FLAG), min_size=12, max_size=40),
    plain=st.sampled_from(["named", "flags", "either"]),
    separator=st.sampled_from([";", " ", "a"]),
)
def test_any_label_sets(rows: list[tuple[int, Any, Any, Any]], plain: str, separator: str, tmp_path: Path) -> None:
    """Prevents: a traceback for a cell that holds no labels, a row half known, a text on both sides of a cut."""
    if plain == "named":
        usual = ["a;b", ["b", "c"], "", None]
        rows = [(text, usual[i % 4], x, y) for i, (text, _, x, y) in enumerate(rows)]
    if plain == "flags":
        rows = [(text, cell, i % 2, i % 3 == 0) for i, (text, cell, *_) in enumerate(rows)]
    file = tmp_path / "rows.jsonl"
    named = [dict(zip(("text", "labels", "x", "y"), (f"t{text}", *more), strict=True)) for text, *more in rows]
    file.write_text("\n".join(map(json.dumps, named)))
    label: Any = "labels" if plain == "named" else ["x", "y"]
    try:
        data = load_table(str(file), "text", label, multilabel=True, separator=separator)
    except UserError as error:
        one_line(error)
        return
    where: dict[str, set[str]] = {}
    for name in ("train", "meta", "validation", "test"):
        targets = data.task.targets(np.array(data.splits[name]["label"], int))
        assert set(np.unique(targets)) <= {-1, 0, 1} and ((targets < 0).any(1) == (targets < 0).all(1)).all()
        for text in data.splits[name]["text"]:
            where.setdefault(text, set()).add(name)
    assert all(len(names) == 1 for names in where.values())
    assert sum(len(data.splits[name]) for name in ("train", "meta", "validation", "test")) == len(rows)
    assert data.task.label_shares is not None and all(0 < share < 1 for share in data.task.label_shares)


def test_types_of_parquet(tmp_path: Path) -> None:
    """Prevents: dates, decimals, bytes and nested values taken for classes or texts."""
    columns = {
        "dates": pa.array([0, 1], pa.date32()),
        "bytes": pa.array([b"a", b"b"]),
        "nested": pa.array([[1], [2]]),
        "dictionary": pa.array(["a", "b"]).dictionary_encode(),
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": ["a", "b"], **columns}), buffer)
    (tmp_path / "rows.parquet").write_bytes(buffer.getvalue())
    for name in ("dates", "bytes", "nested"):
        with pytest.raises(UserError, match=f"row 1 has .* in column '{name}'; give one class per row"):
            load_table(str(tmp_path / "rows.parquet"), "text", name)
        with pytest.raises(UserError, match=f"row 1 has .* in column '{name}'; give text"):
            load_table(str(tmp_path / "rows.parquet"), name, "dictionary")
