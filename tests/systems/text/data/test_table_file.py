"""Tables of a user's own as files: every kind gives the same rows, and what cannot be read is named by its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rwkd_lightning.data.table_file import read_table
from rwkd_lightning.utils.errors import UserError

TEXTS = ["plain", 'with, comma and "quotes"', "two\nlines", "Grüße, 世界"]
LABELS = ["a", "b", "a", "c"]


def quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def written(folder: Path, kind: str) -> Path:
    """The same four rows as a file of this kind, with a column that nobody asks for."""
    file = folder / f"rows{kind}"
    if kind in (".csv", ".tsv"):
        mark = "," if kind == ".csv" else "\t"
        rows = [mark.join(["label", "more", "text"])]
        rows += [mark.join([label, "1", quoted(text)]) for label, text in zip(LABELS, TEXTS, strict=True)]
        file.write_text("\n".join(rows) + "\n", encoding="utf-8")
    elif kind == ".parquet":
        pq.write_table(pa.table({"more": [1] * 4, "text": TEXTS, "label": LABELS}), file)
    else:
        rows = [json.dumps({"text": t, "label": y, "more": 1}) for t, y in zip(TEXTS, LABELS, strict=True)]
        file.write_text("\n\n".join(rows), encoding="utf-8")
    return file


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
def test_every_kind_gives_the_same_rows(kind: str, tmp_path: Path) -> None:
    """Prevents: a text cut at its line break, a quote too many, a column taken for another, a row lost."""
    table = read_table(str(written(tmp_path, kind)), ["text", "label"], "data.train")
    assert table.columns == {"text": TEXTS, "label": LABELS} and len(table) == 4
    # the third row's text has two lines; blank lines stand between the objects
    line = {".csv": 4, ".tsv": 4, ".parquet": 3}.get(kind, 5)
    assert table.at(2).endswith(f"{'row' if kind == '.parquet' else 'line'} {line}")


def test_a_directory_is_its_files_one_after_the_other(tmp_path: Path) -> None:
    """Prevents: files in the order of the disk, a place of another file, and hidden files read as data."""
    folder = tmp_path / "rows"
    folder.mkdir()
    for name, label in (("b.csv", "2"), ("a.csv", "1"), (".hidden", "no"), ("_SUCCESS", "")):
        (folder / name).write_text(f"text,label\nx{label},{label}\ny{label},{label}\n")
    table = read_table(str(folder), ["text", "label"], "data.train")
    assert table.columns["text"] == ["x1", "y1", "x2", "y2"]
    assert table.at(3) == f"data.train='{folder / 'b.csv'}', line 3"
    (folder / "c.jsonl").write_text("{}")
    with pytest.raises(UserError, match="of files of one kind"):
        read_table(str(folder), ["text"], "data.train")


@pytest.mark.parametrize(
    ("stored", "given"),
    [("utf-8", None), ("utf-8-sig", None), ("utf-16", None), ("cp1252", "cp1252"), ("utf-16-le", "utf-16-le")],
)
def test_encodings(stored: str, given: str | None, tmp_path: Path) -> None:
    """Prevents: a mark that becomes part of the first column's name, and umlauts turned into other letters."""
    (tmp_path / "rows.csv").write_bytes("text,label\nGrüße,é\n".encode(stored))
    table = read_table(str(tmp_path / "rows.csv"), ["text", "label"], "data.train", given)
    assert table.columns == {"text": ["Grüße"], "label": ["é"]}


BROKEN: dict[str, tuple[str, bytes, dict[str, Any], str]] = {
    "encoding": ("a.csv", "text,label\nx,1\nGrüße,2\n".encode("cp1252"), {}, "not UTF-8 in line 3; .*data.encoding="),
    "unknown encoding": ("a.csv", b"text,label\n", {"encoding": "utf9"}, "data.encoding='utf9' is not known"),
    "NUL": ("a.csv", b"text,label\nx\0,1\n", {}, "a NUL in line 2"),
    "too many fields": ("a.csv", b"text,label\nx,1\nHello, you,1\n", {}, "3 fields in line 3, its header 2"),
    "too few fields": ("a.csv", b"text,label\nx\n", {}, "1 fields in line 2"),
    "open quote": ("a.csv", b'text,label\n"x,1\n', {}, "not a readable table"),
    "other delimiter": ("a.csv", b"text;label\nx;1\n", {}, "if ';' separates its columns, set 'data.delimiter=\";\"'"),
    "no such column": ("a.csv", b"txt,label\nx,1\n", {}, "no column 'text'; did you mean 'txt'"),
    "a column twice": ("a.csv", b"text,text,label\nx,y,1\n", {}, "column 'text' twice"),
    "no rows": ("a.csv", b"text,label\n", {}, "has no rows"),
    "empty": ("a.csv", b"", {}, "no column 'text'"),
    "no JSON": ("a.jsonl", b'{"text": "x", "label": 1}\n{"text": \n', {}, "no JSON in line 2"),
    "no object": ("a.jsonl", b"[1, 2]\n", {}, "a list in line 1; write one object per line"),
    "no key": ("a.jsonl", b'{"txt": "x", "label": 1}\n', {}, "no column 'text'; did you mean 'txt'"),
    "no Parquet": ("a.parquet", b"PAR1 and no more", {}, "no readable Parquet file"),
    "another kind": ("a.csv.gz", b"", {}, "ends in none of .csv, .tsv"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    """Prevents: a traceback, a row that is filled up or cut, and NaN for a text."""
    file, content, options, said = BROKEN[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        read_table(str(tmp_path / file), ["text", "label"], "data.train", **options)
    assert "\n" not in str(caught.value)


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    """Prevents: an empty table for a typo."""
    (tmp_path / "reviews.csv").write_text("text,label\nx,1\n")
    with pytest.raises(UserError, match=r"reviws.csv' is not there; did you mean .*reviews.csv\?"):
        read_table(str(tmp_path / "reviws.csv"), ["text"], "data.train")


def test_a_text_may_be_a_book(tmp_path: Path) -> None:
    """Prevents: the csv module's limit of 131,072 characters a field."""
    (tmp_path / "a.csv").write_text(f"text,label\n{'word ' * 50_000},1\n")
    assert len(read_table(str(tmp_path / "a.csv"), ["text"], "data.train").columns["text"][0]) == 250_000
