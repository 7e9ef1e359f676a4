"""A path that the user typed, checked before anything asks the disk for it; a file that is whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rwkd_lightning.utils.errors import UserError

LONGEST_NAME = 255  # bytes, on every common file system


def place(text: Any, setting: str) -> Path:
    """The path with ``~`` expanded.

    Raises:
        UserError: for what can be no path: no text or none at all, a NUL, a name that no disk takes, an unknown ~user.
    """
    if not isinstance(text, str | os.PathLike) or not os.fspath(text):
        raise UserError(f"{setting}={text!r} is not a path; give a file or a directory")
    path = Path(text)
    if "\0" in str(path):
        raise UserError(f"{setting}={str(path)!r} holds a NUL, which no file's name does")
    if long := next((name for name in path.parts if len(os.fsencode(name)) > LONGEST_NAME), ""):
        raise UserError(
            f"{setting} holds a name of {len(os.fsencode(long))} bytes ({long[:40]!r}...); a disk takes {LONGEST_NAME}"
        )
    if len(os.fsencode(path)) >= 4096:
        raise UserError(
            f"{setting} is {len(os.fsencode(path))} bytes long ({str(path)[:40]!r}...); a system takes 4095"
        )
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UserError(f"{setting}={str(path)!r}: there is no user {path.parts[0]}; write the path out") from error


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A file beside ``path`` to write, which takes its place when all went well; otherwise nothing is left of it."""
    part = path.with_name(f".{path.name[:200]}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
