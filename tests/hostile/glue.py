"""Hostile GLUE directories, and what pyarrow alone reads from them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from rwkd_lightning.systems.text.data.glue import GLUE, load_glue
from tests.hostile.common import ACCEPTED, REFUSED, Step, folder, listing, recipes, refusal

TASKS = ("cola", "mrpc", "mnli", "stsb")
LABELS = [
    -1,
    -2,
    0,
    1,
    2,
    3,
    7,
    127,
    2**40,
    -(2**62),
    None,
    True,
    0.5,
    5.0,
    5.0000001,
    -0.0,
    math.nan,
    math.inf,
    -math.inf,
    1e300,
    "1",
    "entailment",
    b"1",
    [1],
    {"a": 1},
]
TEXTS = [
    "",
    " ",
    None,
    "\0",
    "a\0b",
    "x" * 100_000,
    "two\nlines",
    "\ud7ff",
    "\ufeff",
    "\u202e",
    "\U0010ffff",
    "train sentence1 3",
    5,
    b"\xff\xfe",
    b"bytes",
    ["list"],
    {"a": "b"},
    "\xa0\u2003",
]
TYPES = [
    "int8",
    "uint8",
    "int16",
    "uint64",
    "float",
    "double",
    "halffloat",
    "bool",
    "string",
    "large_string",
    "binary",
    "large_binary",
    "date32",
    "timestamp[us]",
    "time64[us]",
    "duration[s]",
    "null",
]
ODD: list[Callable[[pa.Array], Any]] = [
    lambda x: x.dictionary_encode(),
    lambda x: pa.array([[v] for v in x.to_pylist()]),
    lambda x: pa.array([{"v": v} for v in x.to_pylist()]),
    lambda x: x.cast(pa.decimal128(30, 2)),
    lambda x: pa.array([None] * len(x)),
    lambda x: pa.nulls(len(x), x.type),
    lambda x: pa.array([str(v) for v in x.to_pylist()]),
    lambda x: pa.array([f"0x{i:x}" for i in range(len(x))]),
    lambda x: x.cast(pa.string_view()),
    lambda x: x.run_end_encode(),
    lambda x: pa.array([[(str(v), v)] for v in x.to_pylist()], pa.map_(pa.string(), x.type)),
]
METADATA: list[Any] = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'{"info": {"features": 5}}',
    b'{"info": {"features": {"label": {"_type": "Nothing"}}}}',
    b'{"info": {"features": {"label": {"_type": "ClassLabel", "names": ["b", "a"]}}}}',
    b"\xff\xff",
    b'{"info": null}',
]
WORDS = [
    ["unacceptable", "acceptable"],
    ["acceptable", "unacceptable"],
    ["equivalent", "not_equivalent"],
    ["not_equivalent", "equivalent"],
    ["entailment", "neutral", "contradiction"],
    ["a", "b", "c"],
    ["a"],
    [],
]
SHARDS = [
    "train-00000-of-00001.parquet",
    "train-00000-of-00002.parquet",
    "train-a.parquet",
    "train.parquet",
    "TRAIN-00000-of-00001.parquet",
    "train-00001-of-00002.parquet",
    "train-0-of-1.parquet",
    "train-\n.parquet",
    "test-00000-of-00001.parquet",
    "train-00000-of-00001.csv",
]
Columns = dict[str, pa.Array]


class Example:
    """A directory in the making: each split's columns, metadata and files."""

    def __init__(self, task: str) -> None:
        self.spec = GLUE[task]
        self.splits: dict[str, list[tuple[str, pa.Array]]] = {}
        self.metadata: dict[str, Any] = {}
        self.finish: list[Callable[[Path], None]] = []
        for split in ("train", *self.spec.evaluation_splits):
            n = 40 if split == "train" else 8
            labels = (
                [i % 6 for i in range(n)] if self.spec.is_regression else [i % self.spec.num_labels for i in range(n)]
            )
            texts = {name: pa.array([f"{split} {name} {i}" for i in range(n)]) for name in self.spec.text_columns}
            label = pa.array(labels, pa.float32() if self.spec.is_regression else pa.int64())
            self.splits[split] = [*texts.items(), ("label", label), ("idx", pa.array(range(n), pa.int32()))]

    def split(self, a: int) -> str:
        return sorted(self.splits)[::-1][a % 3 % len(self.splits)]  # validation, train

    def file(self, split: str) -> str:
        return f"{self.spec.name}/{split}-00000-of-00001.parquet"


def number_of(columns: list[Any], a: int, name: str | None = None) -> int | None:
    """The place of the named column, or of any."""
    if not columns:
        return None
    places = [i for i, (its, _) in enumerate(columns) if name is None or its == name]
    return places[a % len(places)] if places else None


def put(example: Example, name: str | None, a: int, b: int, values: list[Any]) -> None:
    """One value among the others; a column that can hold both becomes of that type, else the step does nothing."""
    columns = example.splits[example.split(a)]
    place = number_of(columns, a // 3, name)
    if place is None or not len(columns[place][1]):
        return
    try:
        found = columns[place][1].to_pylist()
    except UnicodeError:  # an earlier step's
        return
    found[a % len(found)] = values[b % len(values)]
    convert(columns, place, lambda _: pa.array(found, columns[place][1].type), lambda _: pa.array(found))


def convert(columns: list[Any], place: int, *ways: Callable[[pa.Array], pa.Array]) -> None:
    """The first of these that Arrow can do."""
    for way in ways:
        try:
            columns[place] = (columns[place][0], way(columns[place][1]))
            return
        except (pa.ArrowException, TypeError, ValueError, OverflowError, AttributeError, UnicodeError):
            continue


def text(example: Example, a: int, b: int) -> None:
    put(example, example.spec.text_columns[a % len(example.spec.text_columns)], a, b, TEXTS)


def retype(example: Example, a: int, b: int) -> None:
    columns = example.splits[example.split(a)]
    if (place := number_of(columns, a // 3)) is not None:
        convert(
            columns,
            place,
            lambda x: x.cast(TYPES[b % len(TYPES)]),
            lambda x: x.cast("int64").cast(TYPES[b % len(TYPES)]),
        )


def odd(example: Example, a: int, b: int) -> None:
    columns = example.splits[example.split(a)]
    if (place := number_of(columns, a // 3)) is not None:
        convert(columns, place, ODD[b % len(ODD)])


def bad_utf8(example: Example, a: int, b: int) -> None:
    columns = example.splits[example.split(a)]
    place = number_of(columns, 0, example.spec.text_columns[0])
    if place is not None and len(columns[place][1]):

        def way(x: pa.Array) -> pa.Array:
            values = [str(v).encode() for v in x.to_pylist()]
            values[b % len(values)] = b"caf\xe9"
            return pa.array(values, pa.binary()).view(pa.string())

        convert(columns, place, way)


def rename(example: Example, a: int, b: int) -> None:
    columns = example.splits[example.split(a)]
    if (place := number_of(columns, a // 3)) is not None:
        name, values = columns[place]
        columns[place] = ([f"{name} ", name.upper(), "", f"{name}_1", "label", "idx", "a\nb"][b % 7], values)


def extra(example: Example, a: int, b: int) -> None:
    columns = example.splits[example.split(a)]
    n = len(columns[0][1]) if columns else 0
    columns.append((["more", "label", "idx", "sentence1", "\n", "x" * 1000][b % 6], pa.array(range(n))))
    convert(columns, len(columns) - 1, ODD[a % len(ODD)])


def rows(example: Example, a: int, b: int) -> None:
    """Only so many rows, or rows twice."""
    split = example.split(a)
    if b % 2:
        example.splits[split] = [(name, values.slice(0, b % 30)) for name, values in example.splits[split]]
    else:
        example.splits[split] = [
            (name, pa.concat_arrays([values, values.slice(0, b % 12)])) for name, values in example.splits[split]
        ]


def features(example: Example, a: int, b: int) -> None:
    """The metadata that datasets writes, with other names for the classes, or junk."""
    split = example.split(a)
    if b % 3 == 0:
        example.metadata[split] = METADATA[a % len(METADATA)]
        return
    kinds: dict[str, Any] = {
        name: {"dtype": str(values.type), "_type": "Value"} for name, values in example.splits[split]
    }
    kinds["label"] = {"names": WORDS[b % len(WORDS)], "_type": "ClassLabel"}
    example.metadata[split] = json.dumps({"info": {"features": kinds}}).encode()


def one_class(example: Example, a: int, b: int) -> None:
    columns = example.splits["train"]
    if (place := number_of(columns, 0, "label")) is not None:
        kind = columns[place][1].type
        convert(columns, place, lambda x: pa.array([b % 2] * len(x), kind))


def drop(example: Example, a: int, b: int) -> None:
    columns = example.splits[example.split(a)]
    if (place := number_of(columns, a // 3)) is not None:
        del columns[place]


def on_disk(change: Callable[[Path, int, int], None]) -> Callable[[Example, int, int], None]:
    """A change of a split's file after it was written."""

    def step(example: Example, a: int, b: int) -> None:
        example.finish.append(lambda root: change(root / example.file(example.split(a)), a, b))

    return step


def shards(path: Path, a: int, b: int) -> None:
    """The file in two, the second perhaps with other columns."""
    if not path.is_file():
        return
    try:
        table = pq.read_table(path)
        half = len(table) // 2
        second = table.slice(half)
        if b % 3 == 1 and table.num_columns:
            second = second.drop_columns([table.column_names[a % table.num_columns]])
        if b % 3 == 2:
            second = second.select(table.column_names[::-1])
        first = path.with_name(path.name.replace("of-00001", "of-00002"))
        pq.write_table(table.slice(0, half), first)
        pq.write_table(second, path.with_name(path.name.replace("00000-of-00001", "00001-of-00002")))
        path.unlink()
    except (pa.ArrowException, OSError, KeyError, NotImplementedError):
        return


def bytes_of(path: Path, a: int, b: int) -> None:
    """Cut off, overwritten, or other bytes."""
    if not path.is_file():
        return
    data = path.read_bytes()
    place = (a * 4096 + b) % (len(data) + 1)
    path.write_bytes(
        [
            data[:place],
            data[:place] + bytes([b % 256]) + data[place + 1 :],
            b"",
            b"PAR1",
            b"PAR1" * 3,
            bytes((a * k) % 256 for k in range(b)),
            data + b"x",
        ][b % 7]
    )


def in_its_place(path: Path, a: int, b: int) -> None:
    """A directory, a loop of links, nothing, or the folder itself a file."""
    if path.is_file():
        path.unlink()
    if b % 4 == 0 and not os.path.lexists(path):
        path.mkdir()
    elif b % 4 == 1 and not os.path.lexists(path):
        os.symlink(path, path)
    elif b % 4 == 2 and path.parent.is_dir() and not any(path.parent.iterdir()):
        path.parent.rmdir()
        path.parent.write_text("a file")


def other_name(path: Path, a: int, b: int) -> None:
    if path.is_file() and path.name.startswith("train"):
        path.rename(path.with_name(SHARDS[b % len(SHARDS)]))


STEPS: dict[str, Callable[[Example, int, int], None]] = {
    "label": lambda example, a, b: put(example, "label", a, b, LABELS),
    "text": text,
    "bad_utf8": bad_utf8,
    "idx": lambda example, a, b: put(example, "idx", a, b, LABELS),
    "retype": retype,
    "odd": odd,
    "rename": rename,
    "extra": extra,
    "rows": rows,
    "features": features,
    "one_class": one_class,
    "drop": drop,
    "shards": on_disk(shards),
    "bytes": on_disk(bytes_of),
    "place": on_disk(in_its_place),
    "name": on_disk(other_name),
    "twin": lambda example, a, b: put(example, example.spec.text_columns[0], a, 11, TEXTS),
}
strategy = st.tuples(st.sampled_from(TASKS), recipes(list(STEPS)))


def write(example: Example, root: Path) -> None:
    """The directory."""
    (root / example.spec.name).mkdir()
    for split, columns in example.splits.items():
        try:
            table = pa.Table.from_arrays([values for _, values in columns], names=[name for name, _ in columns])
            if split in example.metadata:
                table = table.replace_schema_metadata({b"huggingface": example.metadata[split]})
            pq.write_table(table, root / example.file(split))
        except (pa.ArrowException, NotImplementedError):  # columns that Parquet cannot hold
            (root / example.file(split)).write_bytes(b"")
    for change in example.finish:
        change(root)


def plain(root: Path, task: str, split: str) -> list[tuple[Any, ...]]:
    """Rows (idx, label, texts) by pyarrow alone."""
    names = ("idx", "label", *GLUE[task].text_columns)
    found: list[tuple[Any, ...]] = []
    for file in sorted((root / task).glob(f"{split}-*.parquet")):
        table = pq.ParquetFile(file).read()
        found += zip(*(table[name].to_pylist() for name in names), strict=True)
    return found


def same(one: tuple[Any, ...], other: tuple[Any, ...], regression: bool) -> bool:
    """Equal values of one type: 1 is not True and not 1.0, but a score is rounded to float32."""
    if regression and type(other[1]) in (int, float):
        one, other = (one[0], *one[2:]), (other[0], *other[2:]) if math.isclose(one[1], other[1], rel_tol=1e-6) else ()
    return len(one) == len(other) and all(type(x) is type(y) and x == y for x, y in zip(one, other, strict=True))


def without_label(rows: list[tuple[Any, ...]], regression: bool) -> list[tuple[Any, ...]]:
    """The rows, a word in place of a label that says there is none."""

    def lacks(label: Any) -> bool:
        return type(label) in (int, float) and (label == -1 or (regression and math.isnan(label)))

    return [(row[0], "none", *row[2:]) if lacks(row[1]) else row for row in rows]


def check(example: tuple[str, list[Step]]) -> str:
    """Accepted as pyarrow reads it, or refused in one line; nothing is written."""
    task, recipe = example
    made = Example(task)
    for name, a, b in recipe:
        STEPS[name](made, a, b)
    with folder() as root:
        write(made, root)
        before = listing(root)
        loaded, message = refusal(lambda: load_glue(task, str(root), meta_fraction=0.2))
        assert listing(root) == before, "something was written beside the data"
        if loaded is None:
            assert recipe, f"sound data is refused: {message}"
            return REFUSED
        spec = loaded.task
        for split in ("train", *spec.evaluation_splits):
            parts = [loaded.splits["train"], loaded.splits["meta"]] if split == "train" else [loaded.splits[split]]
            got = [row for part in parts for row in zip(*(part.to_dict()[name] for name in spec.columns), strict=True)]
            want = plain(root, task, split)
            if split == "train":
                got, want = without_label(got, spec.is_regression), without_label(want, spec.is_regression)
                held = set(zip(*(loaded.splits["meta"].to_dict()[name] for name in spec.text_columns), strict=True))
                want = [row for row in want if row[1] != "none" or row[2:] not in held]
                got, want = sorted(got, key=repr), sorted(want, key=repr)
                if spec.is_regression:
                    got, want = (sorted(x, key=lambda row: (row[0], row[2:])) for x in (got, want))
            assert len(got) == len(want), f"{split}: {len(want)} rows, {len(got)} loaded"
            for one, other in zip(got, want, strict=True):
                assert same(one, other, spec.is_regression), f"{split}: {other} was loaded as {one}"
        return ACCEPTED
