"""Hostile CSV files of tweets, and what an independent reader makes of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from rwkd_lightning.systems.text.data.task import TaskData
from rwkd_lightning.systems.text.data.tweets import TWEETS, load_tweets
from tests.hostile.common import ACCEPTED, REFUSED, Step, folder, listing, recipes, refusal

LABELS = ("negative", "neutral", "positive")
SIZES = {"teacher_train": 9, "train": 9, "meta": 30, "validation": 3, "test": 3}
Rows = list[list[str]]

CELLS = [
    "",
    " ",
    "nan",
    "NaN",
    "inf",
    "-1",
    "1e999",
    "null",
    "None",
    "Positive",
    "NEGATIVE",
    " neutral",
    "positive ",
    "2",
    "0",
    'say "no"',
    "a,b",
    "two\nlines",
    "two\r\nlines",
    "\r",
    "caf\xe9",
    "\x85",
    "\xa0",
    "\x1a",
    "\x1c",
    "x" * 70_000,
    "x" * 140_000,
    "'",
    '"',
    '""',
    "\\",
    "\\n",
    "\t",
    "#",
    "positive",
    "negative",
]
HEADERS = [
    ["sentiment", "text"],
    ["text", "sentiment"],
    ["sentiment", "confidence"],
    ["Sentiment", "confidence", "text"],
    ["sentiment", "text", "text"],
    ["sentiment", "sentiment", "text"],
    ["text"],
    [],
    ["sentiment", "confidence", " text"],
    ["a", "b", "c", "d"],
    ["text", "confidence", "sentiment"],
    ["sentiment", "confidence", "text", "text"],
    ["", "", ""],
]
BYTES = [
    b"\0",
    b"\xff",
    b"\xfe\xff",
    b"\xef\xbb\xbf",
    b"\xe2\x82\xac",
    b'"',
    b'"x',
    b"\n",
    b"\r",
    b"\r\n",
    b"\n\n\n",
    b",",
    b",,,,",
    b"\x80",
    b"\x1a",
    b"'",
    b'\\"',
    b"a\nb\nc\n",
    b'"\n"',
    b"PAR1",
    b"\x1f\x8b\x08",
]


def sound() -> Rows:
    """A header and 90 rows, 30 of each label."""
    return [["sentiment", "confidence", "text"], *([LABELS[i % 3], "1.0", f"caf\xe9 number {i}"] for i in range(90))]


def at(rows: Rows, a: int) -> list[str]:
    return rows[a % len(rows)] if rows else []


def cell(rows: Rows, a: int, b: int) -> None:
    row = at(rows, a // 3)
    if row:
        row[a % len(row)] = CELLS[b % len(CELLS)]


def columns(rows: Rows, a: int, b: int) -> None:
    """Another header over the same rows, and perhaps the rows in its order."""
    if rows and a % 2:
        rows[0] = list(HEADERS[b % len(HEADERS)])
    else:
        turn = b % 3
        rows[:] = [row[turn:] + row[:turn] for row in rows]


def all_rows(rows: Rows, a: int, b: int) -> None:
    """The same change in every row but the header's."""
    for row in rows[1:]:
        if a % 4 == 0:
            row.append(CELLS[b % len(CELLS)])
        elif a % 4 == 1:
            del row[-1:]
        elif a % 4 == 2:
            row.insert(0, str(b))
        elif row:
            row[0] = CELLS[b % len(CELLS)]


TABLE: dict[str, Callable[[Rows, int, int], None]] = {
    "cell": cell,
    "columns": columns,
    "all_rows": all_rows,
    "longer": lambda rows, a, b: at(rows, a).extend(["more"] * (1 + b % 3)),
    "shorter": lambda rows, a, b: at(rows, a).__delitem__(slice(b % 3, None)),
    "drop": lambda rows, a, b: rows.__delitem__(slice(a % 92, a % 92 + b % 60)),
    "repeat": lambda rows, a, b: rows.extend(list(at(rows, a + k)) for k in range(b % 40)),
    "relabelled": lambda rows, a, b: rows.append([LABELS[b % 3], "1.0", (at(rows, a) or [""])[-1]]),
    "one_class": lambda rows, a, b: [row.__setitem__(0, LABELS[b % 3]) for row in rows[1:] if row] and None,
    "blank": lambda rows, a, b: rows.insert(a % 92, []),
}


def written(rows: Rows, a: int) -> bytes:
    """As a file: what needs quotes in quotes, or all, or none."""

    def field(text: str) -> str:
        needed = any(c in text for c in ',"\n\r')
        return '"' + text.replace('"', '""') + '"' if (needed and a % 3 != 2) or a % 3 == 1 else text

    end = "\r\n" if a % 5 == 4 else "\n"
    return end.join(",".join(map(field, row)) for row in rows).encode("latin-1") + (b"" if a % 7 == 6 else end.encode())


RAW: dict[str, Callable[[bytes, int, int], bytes]] = {
    "quoting": lambda data, a, b: data,  # read by `make`
    "cut": lambda data, a, b: data[: (a * 4096 + b) % (len(data) + 1)],
    "insert": lambda data, a, b: (
        data[: (a * 7) % (len(data) + 1)] + BYTES[b % len(BYTES)] + data[(a * 7) % (len(data) + 1) :]
    ),
    "front": lambda data, a, b: BYTES[b % len(BYTES)] + data,
    "overwrite": lambda data, a, b: data[: a % (len(data) + 1)] + bytes([b % 256]) + data[a % (len(data) + 1) + 1 :],
    "utf": lambda data, a, b: data.decode("latin-1").encode(
        ("utf-8", "utf-16", "utf-16-le", "utf-32", "utf-8-sig")[b % 5]
    ),
    "line_ends": lambda data, a, b: data.replace(b"\n", (b"\r", b"\r\n", b"\n\r", b"\n\n", b"\x0b")[b % 5]),
    "junk": lambda data, a, b: bytes((a * k + b) % 256 for k in range(a)),
    "commas": lambda data, a, b: data.replace(b",", (b";", b"\t", b", ", b"|")[b % 4]),
}


def make(recipe: list[Step]) -> bytes:
    """The file that a recipe describes: changes of the table, then of its bytes."""
    rows = sound()
    for name, a, b in recipe:
        if name in TABLE:
            TABLE[name](rows, a, b)
    data = written(rows, next((a for name, a, _ in recipe if name == "quoting"), 0))
    for name, a, b in recipe:
        if name in RAW:
            data = RAW[name](data, a, b)
    return data


PLACES: dict[str, Callable[[Path], None]] = {
    "directory": lambda path: path.mkdir(),
    "loop": lambda path: os.symlink(path, path),
    "dangling": lambda path: os.symlink(path.with_name("nothing"), path),
    "pipe": lambda path: os.mkfifo(path),
    "missing": lambda path: None,
}
NAMES = ["a\nb.csv", "a b.csv", "'\".csv", "\udc80.csv", "x" * 300, "tweets.csv", "\x1b[31m.csv"]
strategy = recipes([*TABLE, *RAW, *PLACES, "name"], most=4)


def plain(data: bytes) -> list[list[str]] | None:
    """The fields of a CSV file by RFC 4180, blank lines left out; None where a quote is out of place or not closed."""
    text = data.decode("latin-1")
    rows: list[list[str]] = []
    row, field, i, quoted, closed = [], "", 0, False, False
    while i < len(text):
        c = text[i]
        if quoted:
            if c == '"' and text[i + 1 : i + 2] == '"':
                field, i = field + '"', i + 1
            elif c == '"':
                quoted, closed = False, True
            else:
                field += c
        elif c == '"' and not field and not closed:
            quoted = True
        elif c in ",\r\n":
            row.append(field)
            if c != ",":
                rows.append([] if row == [""] and not closed else row)
                row = []
                i += text[i : i + 2] == "\r\n"
            field, closed = "", False
        elif closed:
            return None
        else:
            field += c
        i += 1
    if quoted:
        return None
    if row or field or closed:
        rows.append([*row, field])
    return [row for row in rows if row]


def expected(data: bytes) -> dict[int, tuple[str, str]]:
    """Row number to label and text, of the distinct texts that have one label."""
    fields = plain(data)
    assert fields, "a file that an independent reader cannot read was accepted"
    header, *rows = fields
    assert all(len(row) == len(header) for row in rows), "rows of another length than the header's were accepted"
    assert header.count("sentiment") == header.count("text") == 1
    labels, texts = ([row[header.index(name)] for row in rows] for name in ("sentiment", "text"))
    kept: dict[int, tuple[str, str]] = {}
    for number, (label, text) in enumerate(zip(labels, texts, strict=True)):
        same = [other for other, its in zip(labels, texts, strict=True) if its.strip() == text.strip()]
        first = all(its.strip() != text.strip() for its in texts[:number])
        if text.strip() and first and set(same) == {label}:
            kept[number] = (label, text.strip())
    return kept


def check(recipe: list[Step]) -> str:
    """Accepted as an independent reader reads it, or refused in one line; nothing is written."""
    data = make(recipe)
    with folder() as root:
        names = [b for name, _, b in recipe if name == "name"]
        path = root / (NAMES[names[0] % len(NAMES)] if names else "tweets.csv")
        place = next((name for name, _, _ in recipe if name in PLACES), None)
        if place is None and len(os.fsencode(path.name)) < 256:
            path.write_bytes(data)
        elif place is not None and len(os.fsencode(path.name)) < 256:
            PLACES[place](path)
        before = listing(root)
        loaded, message = refusal(lambda: load_tweets(str(path), SIZES))
        assert listing(root) == before, "something was written beside the data"
        if loaded is None:
            assert recipe, f"sound data is refused: {message}"
            return REFUSED
        assert place is None
        compare(loaded, expected(data))
        return ACCEPTED


def compare(loaded: TaskData, rows: dict[int, tuple[str, str]]) -> None:
    """The splits hold rows of the file, each once, with its own label."""
    seen: list[int] = []
    for split, size in SIZES.items():
        table = loaded.splits[split].to_dict()
        assert len(table["idx"]) == size
        seen += table["idx"]
        for idx, label, text in zip(table["idx"], table["label"], table["text"], strict=True):
            assert rows[idx] == (TWEETS.label_names[label], text), (
                f"row {idx} reads {rows[idx]}, and {label} {text!r} was loaded"
            )
    assert len(set(seen)) == len(seen)
