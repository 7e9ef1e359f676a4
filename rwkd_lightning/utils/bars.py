"""Whether progress bars are shown: those of Lightning, of our own passes over the data, and of other libraries."""

from __future__ import annotations

import math
import sys

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
