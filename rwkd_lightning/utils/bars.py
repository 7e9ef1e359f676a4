"""How far a pass over the data has come: a bar on a terminal, lines in a log file, or nothing."""

from __future__ import annotations

import logging
import math
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

log = logging.getLogger(__name__)
Part = TypeVar("Part")
FIRST, EVERY = 10.0, 60.0
"""Seconds to the first line, and between two lines."""
ROOM = 70
"""Columns of a terminal from which on a bar is drawn as usual."""
_shown = True


def show(yes: bool) -> None:
    """Show bars, or none at all, in this process from now on."""
    global _shown
    if yes != _shown:
        from huggingface_hub.utils import disable_progress_bars, enable_progress_bars  # type: ignore[attr-defined]

        (enable_progress_bars if yes else disable_progress_bars)()
    _shown = yes


def shown() -> bool:
    """Whether they are; True unless `show` has said otherwise."""
    return _shown


def drawn() -> bool:
    """Whether a bar that moves can be drawn: they are shown, on a terminal or in a notebook. A log file gets lines."""
    return _shown and (sys.stderr.isatty() or "ipykernel" in sys.modules)


def spoken(seconds: float) -> str:
    """A time in words."""
    if seconds == math.inf:
        return "no end"
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def narrow(more: str) -> str | None:
    """The format of a bar, ``more`` at its end, where a terminal has no room for the usual one; None where it has."""
    return f"{{desc}} {{percentage:.0f}}%{more}" if shutil.get_terminal_size().columns < ROOM else None


def over(parts: Iterable[Part], description: str) -> Iterator[Part]:
    """Yield the parts of a pass and show its progress; the time left is shown if the number of parts is known."""
    if drawn():
        from tqdm.auto import tqdm

        layout = narrow(" {remaining} left")
        yield from tqdm(parts, desc=description, leave=False, dynamic_ncols=True, bar_format=layout)
        return
    began, total = time.monotonic(), len(parts) if isinstance(parts, Sized) else 0
    due = began + FIRST
    for done, part in enumerate(parts):
        now = time.monotonic()
        if _shown and now >= due:
            due = now + EVERY
            left = f" of {total}, {spoken((now - began) * (total - done) / done)} left" if total and done else ""
            log.info("%s: batch %d%s", description, done, left)
        yield part
