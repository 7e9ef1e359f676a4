"""What all hostile examples share: a recipe, a folder of its own, and the one way in which a refusal may look.

An example is a recipe, a list of steps ``(NAME, A, B)``: NAME says what is done to something sound, the numbers choose
where and to which value. So it can be printed, kept in a file and made again.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import strategies as st

from rwkd_lightning.utils.errors import UserError

Step = tuple[str, int, int]
T = TypeVar("T")
ACCEPTED, REFUSED = "accepted", "refused"


def recipes(names: Sequence[str], most: int = 3) -> st.SearchStrategy[list[Step]]:
    """Up to ``most`` steps."""
    number = st.integers(0, 4095)
    return st.lists(st.tuples(st.sampled_from(sorted(names)), number, number), max_size=most)


def refusal(call: Callable[[], T]) -> tuple[T | None, str | None]:
    """What the call gives, and the message of a refusal, which must be one printable line; any other exception goes
    through.
    """
    try:
        return call(), None
    except UserError as error:
        message = str(error)
        assert message and message.isprintable(), f"a refusal that is not one printable line: {message!r}"
        assert len(message) < 2100, f"a refusal of {len(message)} characters"
        return None, message


@contextmanager
def folder() -> Iterator[Path]:
    """An empty directory, removed in the end."""
    path = Path(tempfile.mkdtemp(prefix="hostile-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def listing(root: Path) -> list[tuple[Any, ...]]:
    """All that lies below a directory: names, kinds, sizes, times of change."""
    found = []
    for at, folders, files in os.walk(root):
        for name in [*folders, *files]:
            stat = os.lstat(os.path.join(at, name))
            found.append((at, name, stat.st_mode, stat.st_size, stat.st_mtime_ns))
    return sorted(found)
