"""A file of text, read whole: UTF-8 and nothing else."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import NamedTuple

from rwkd_lightning.utils.errors import UserError

PATH = "task.load.path"


class Settings(NamedTuple):
    """The names under which a command takes a file of documents: a run's by default."""

    path: str = PATH
    text: str = "task.load.text_column"
    label: str = "task.load.label_column"
    delimiter: str = "'task.load.delimiter=\"{}\"'"
    """As it is typed, with a place for the character."""


def read_text(file: Path, setting: str = PATH) -> str:
    """Its text, without the mark that some programs put at the start.

    Args:
        setting: what named the file, for the messages.

    Raises:
        UserError: if it cannot be read, is empty, is not UTF-8 or holds a NUL; the line is named.
    """
    where = f"{setting}={str(file)!r}"
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{where} cannot be read ({error.strerror}); give a file of text") from error
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"{where} is UTF-16; convert it: iconv -f utf-16 -t utf-8 OLD > NEW")
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where} is not UTF-8 in line {content.count(10, 0, error.start) + 1}; convert it from what it is, as "
            "iconv -f latin1 -t utf-8 OLD > NEW"
        ) from error
    if (nul := text.find("\0")) >= 0:
        raise UserError(
            f"{where} has a NUL in line {text.count(chr(10), 0, nul) + 1}; give text, or convert it if it is UTF-16: "
            "iconv -f utf-16le -t utf-8 OLD > NEW"
        )
    if not text.strip():
        raise UserError(f"{where} is empty; give a file with text")
    return text


def lines(text: str) -> list[str]:
    """Its lines; only line feeds end one, as what `str.splitlines` also takes for an end occurs inside documents."""
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
