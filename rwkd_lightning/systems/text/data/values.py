"""Which Python values a column of a split takes as they are; there is no cast that could change one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

_LISTED = 10  # class names in a message
_EXACT = 2**24  # up to which float32 has every whole number
_PRECISION = 1e-6  # of float32, whose nearest number is within 6e-8 of any that it can hold


def plain(value: Any) -> Any:
    """Return the Python value that a scalar of numpy, torch or Arrow stands for; any other value as it is."""
    if isinstance(value, np.generic) and value.dtype.kind in "mM":  # a time, whose `item` may be a bare number
        return value
    if hasattr(value, "as_py"):
        return value.as_py()
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


def whole_number(value: Any) -> str | None:
    """Say why `value` is no int64; None where it is one."""
    if isinstance(value, bool) or not isinstance(value, int):
        return "give whole numbers (int)"
    return None if -(2**63) <= value < 2**63 else "give a whole number that fits into 64 bits"


def real_number(value: Any) -> str | None:
    """Say why `value` is no number that float32 holds, a whole one exactly; NaN and infinity are left to the checks of
    a task.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "give a number (int or float)"
    held = abs(value) <= _EXACT if isinstance(value, int) else not off(np.array([value])).any()
    return None if held else "give a number that float32 can hold"


def off(values: np.ndarray) -> np.ndarray:
    """Flag the numbers `(N,)` that float32 would turn into something else: too large for it, or too small."""
    exact = values.astype(np.float64)
    with np.errstate(all="ignore"):
        return np.isfinite(exact) & ~(np.abs(exact.astype(np.float32) - exact) <= _PRECISION * np.abs(exact))


def class_number(names: Sequence[str]) -> Callable[[Any], str | None]:
    """Return what says why a value is no number of one of these classes' kind; whether there is such a class is checked
    later.
    """
    listed = ", ".join(f"{number} ({name})" for number, name in enumerate(names[:_LISTED]))
    more = ", ..." if len(names) > _LISTED else ""

    def check(value: Any) -> str | None:
        problem = whole_number(value)
        return problem and f"give the number of a class as an int: {listed}{more}"

    return check


def text(value: Any) -> str | None:
    """Say why `value` is no text that can be written as UTF-8."""
    if isinstance(value, bytes):
        return "give text (str), as bytes.decode makes of bytes"
    if not isinstance(value, str):
        return "give text (str)"
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        return "it holds half a surrogate pair, which is no character; delete it"
    return None


def shown(value: Any) -> str:
    """Return `value` and its type for a message of one line."""
    try:
        written = " ".join(repr(value).split())
    except Exception:  # whatever a class of its own does there
        written = "a value"
    return f"{written[:60]}{'...' if len(written) > 60 else ''} ({type(value).__name__})"
