"""Ask a finished student for the rows of a file: ``python -m rwkd_lightning.predict RUN new.csv -o out.parquet``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from tqdm.auto import tqdm

from rwkd_lightning.cache.disk import check_room, writing
from rwkd_lightning.export import compare, onnx_model
from rwkd_lightning.export.compare import Call
from rwkd_lightning.export.shipped import Shipped, folder_of, kind_of
from rwkd_lightning.predict import writer
from rwkd_lightning.predict.reader import Chunk, Source
from rwkd_lightning.predict.writer import Into
from rwkd_lightning.utils import bars, commands
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.paths import place

CHUNK = 1024
"""Rows that are in memory at a time, and sorted by length."""


def predict(
    source: Source, to: Path, into: Into, model: Shipped, call: Call, options: argparse.Namespace
) -> tuple[int, int]:
    """Write the file's columns and the model's answers to ``to``; returns the number of rows with nothing to read, and
    of parts of the others that the model does not read.

    Raises:
        UserError: for a row that cannot be read, before the first answer is computed.
    """
    names = check_rows(source, model, options)
    example = [[model.example] for _ in names]
    extra = schema_of(model.answers(compare.outputs(model, call, example, "", show=False), example), options.prefix)
    if clash := [name for name in extra.names if name in source.schema.names]:
        raise UserError(f"the file has a column {clash[0]!r} already; give --prefix student_ for the answers' names")
    schema, blank, lost = pa.schema([*source.schema, *extra]), 0, 0
    with (
        writer.writing_table(to, into, schema, [*names, *extra.names]) as write,
        tqdm(total=source.rows, unit=" rows", disable=None if bars.shown() else True) as bar,
    ):
        for chunk in source.chunks(CHUNK):
            texts = [chunk.table[name].to_pylist() for name in names]
            empty = set(blank_rows(texts, model))
            columns, unread = answered(model, call, texts, empty, extra, options)
            write(pa.table([*chunk.table.columns, *columns], schema=schema))
            blank, lost = blank + len(empty), lost + unread
            bar.update(len(chunk.lines))
    return blank, lost


def check_rows(source: Source, model: Shipped, options: argparse.Namespace) -> list[str]:
    """Read the whole file once; the names of the columns that the model reads."""
    names: list[str] = []
    blank: list[int] = []
    for chunk in source.check(CHUNK):
        names = names or text_columns(chunk, source, model, options.text)
        missing = [name for name in names if name not in chunk.table.column_names]
        if missing:
            raise UserError(f"{source.path}: lines {chunk.lines[0]} to {chunk.lines[-1]} have no {missing[0]!r}")
        for name in names:
            kind = chunk.table[name].type
            if not (model.fits(kind) or pa.types.is_null(kind)):
                raise UserError(
                    f"{source.path}: column {name!r} holds {kind}, and no {model.reads} ({source.unit}s "
                    f"{chunk.lines[0]} to {chunk.lines[-1]}); name one with --text"
                )
        empty = blank_rows([chunk.table[name].to_pylist() for name in names], model)
        blank += [chunk.lines[i] for i in empty][: 5 - len(blank)]
    if blank and not options.allow_blank:
        few = ", ".join(map(str, blank[:4])) + (", ..." if len(blank) > 4 else "")
        raise UserError(
            f"{source.path} has no {model.reads} in {' or '.join(names)} in {source.unit} {few}; drop such rows, or "
            "add --allow-blank to leave their answers empty"
        )
    return names


def text_columns(chunk: Chunk, source: Source, model: Shipped, asked: str | None) -> list[str]:
    """The columns that the model reads: those asked for, those of its run, or the only one in the file that it can
    read.

    Raises:
        UserError: if there are none, or not as many as it reads.
    """
    has = chunk.table.column_names
    if asked is not None:
        names = [name.strip() for name in asked.split(",")]
    elif all(name in has for name in model.columns):
        names = list(model.columns)
    else:
        names = [name for name in has if model.fits(chunk.table[name].type)]
        if len(names) != 1 or len(model.columns) != 1:
            raise UserError(
                f"{source.path} has the columns {', '.join(has)}, the student was trained on "
                f"{', '.join(model.columns)}; name its {model.reads} with --text"
            )
    if missing := [name for name in names if name not in has]:
        raise UserError(
            f"{source.path} has no column {missing[0]!r}, only {', '.join(has)}; name its {model.reads} with --text"
        )
    if len(names) != len(model.columns):
        raise UserError(
            f"--text names {len(names)} columns ({', '.join(names)}), and the student reads {len(model.columns)} "
            f"({', '.join(model.columns)}); name as many"
        )
    return names


def blank_rows(columns: Sequence[Sequence[Any]], model: Shipped) -> list[int]:
    """Numbers of the rows in which no column has anything to read, or one has nothing at all (null)."""
    return [
        i for i, row in enumerate(zip(*columns, strict=True)) if None in row or all(model.blank(value) for value in row)
    ]


def schema_of(answers: dict[str, list[Any]], prefix: str) -> pa.Schema:
    """Names and types of the answers' columns, from those of one row."""
    return pa.schema([(prefix + name, type_of(values[0])) for name, values in answers.items()])


def type_of(value: Any) -> pa.DataType:
    """The type of a column with such values: text, numbers, or lists of them."""
    if isinstance(value, list):
        return pa.list_(type_of(value[0]))
    return pa.string() if isinstance(value, str) else pa.float32()


def answered(
    model: Shipped,
    call: Call,
    texts: Sequence[Sequence[Any]],
    empty: set[int],
    schema: pa.Schema,
    options: argparse.Namespace,
) -> tuple[list[pa.Array], int]:
    """The answers' columns for the rows of a chunk, null for those with nothing to read; and how many parts of the
    others are not read.
    """
    rows = [i for i in range(len(texts[0])) if i not in empty]
    if not rows:
        return [pa.nulls(len(texts[0]), column.type) for column in schema], 0
    asked = compare.pick(texts, rows)
    found = compare.outputs(model, call, asked, "", options.batch_size, show=False)
    columns = []
    for values, column in zip(model.answers(found, asked).values(), schema, strict=True):
        whole: list[Any] = [None] * len(texts[0])
        for i, value in zip(rows, values, strict=True):
            whole[i] = value
        columns.append(pa.array(whole, column.type))
    return columns, int(found.isnan().all(1).sum())


def call_of(model: Shipped, folder: Path, options: argparse.Namespace) -> Call:
    """The model in PyTorch, or its ONNX file.

    Raises:
        UserError: if there is no such file.
    """
    if not (options.onnx or options.int8):
        device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("--device cuda: PyTorch sees no GPU here; leave it out")
        return compare.torch_call(model, device)
    name = onnx_model.INT8 if options.int8 else onnx_model.FLOAT
    for place_ in (folder, folder / "export"):
        if (place_ / name).is_file():
            return onnx_model.Session(place_ / name)
    option = "--int8" if options.int8 else "--onnx"
    raise UserError(
        f"{folder} has no {name}; write it first with `python -m rwkd_lightning.export RUN {option}`, and give the "
        "folder of that run or export"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status, 1 for a mistake reported in one line."""
    parser = argparse.ArgumentParser(
        prog="python -m rwkd_lightning.predict", description="Ask a finished student for the rows of a file."
    )
    parser.add_argument("model", metavar="RUN", help="the folder of a finished run, or of its export")
    parser.add_argument("file", help="the rows: .csv, .tsv, .jsonl, .parquet, or as its task reads them")
    parser.add_argument("-o", "--out", required=True, metavar="FILE", help="the file to write, of one of these kinds")
    parser.add_argument(
        "--text", metavar="NAMES", help="text columns, as title,body (those of the run, or the only one)"
    )
    parser.add_argument("--onnx", action="store_true", help="use model.onnx of the export")
    parser.add_argument("--int8", action="store_true", help="use model_int8.onnx of the export")
    parser.add_argument("--encoding", default="utf-8", help="of a file of text (utf-8)")
    parser.add_argument("--prefix", default="", help="put before the names of the answers' columns")
    parser.add_argument("--allow-blank", action="store_true", help="leave the answers to rows without a text empty")
    parser.add_argument("--batch-size", type=positive, default=32, help="rows in one pass (32)")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="of PyTorch (cuda, where there is one)")
    parser.add_argument("--force", action="store_true", help="replace the file to write")
    options = parser.parse_args(arguments)

    def work() -> None:
        to, file = place(options.out, "--out"), place(options.file, "file")
        writer.check(to, options.force)
        if to.exists() and file.exists() and to.samefile(file):
            raise UserError(f"--out={str(to)!r} is the file that is read; give another name")
        folder = folder_of(options.model)
        kind, described = kind_of(folder)
        source = kind.source(file, options.encoding, described)
        into = kind.target(to, source)
        model = kind(folder, described)
        call = call_of(model, place(options.model, "RUN"), options)
        with writing(to.parent, "--out"):
            check_room(to.parent, 0, "--out")
            blank, lost = predict(source, to, into, model, call, options)
        without = f", {blank} without a {model.reads} and so without an answer" if blank else ""
        unread = f", {lost} of their {model.parts} not read" if lost else ""
        print(f"wrote {to} ({source.rows} rows{without}{unread})")

    return commands.status(work)


def positive(text: str) -> int:
    """A number of rows."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rows; give 1 or more")
    return int(text)


if __name__ == "__main__":
    commands.run(main)
