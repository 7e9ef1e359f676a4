"""The values of a row: its text, its picture and its labels."""

from __future__ import annotations

from typing import Any


def words(value: Any) -> str:
    """A text; of several, as an image has captions, the longest."""
    if isinstance(value, list):
        return max(map(words, value), key=len, default="")
    return "" if value is None else str(value)


def name(value: Any) -> str | None:
    """A picture's path."""
    return str(value) if value not in (None, "") else None


def labels(value: Any, separator: str | None = None) -> str | list[str] | None:
    """A label by its name, or several; None where there is none."""
    if value is None or value == "":
        return [] if separator is not None and value == "" else None
    if isinstance(value, list):
        return [str(one).strip() for one in value]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if separator is not None:
        return [one.strip() for one in str(value).split(separator) if one.strip()]
    return str(value).strip()
