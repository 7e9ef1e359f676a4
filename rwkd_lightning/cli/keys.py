"""Dotted keys of a nested config: what stands there, what was perhaps meant, whether a value has the right type."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any


class Missing(Exception):
    """There is no such key."""


class Unclear(Exception):
    """Only Hydra can tell."""


def lookup(config: Any, key: str) -> Any:
    """The value at a dotted key, as written in the configs.

    Raises:
        Missing: if there is none.
        Unclear: if the key goes through a list or an interpolation.
    """
    for part in key.split("."):
        if isinstance(config, list) or interpolated(config):
            raise Unclear
        if not isinstance(config, dict) or part not in config:
            raise Missing
        config = config[part]
    return config


def followed(config: dict[str, Any], value: Any) -> Any:
    """The value that ``${another.key}`` points to.

    Raises:
        Unclear: if it points to anything else, or nowhere.
    """
    for _ in range(10):
        if not interpolated(value):
            return value
        target = re.fullmatch(r"\$\{(\w+(\.\w+)*)\}", value)
        try:
            value = lookup(config, target[1] if target else "")
        except Missing:
            break
    raise Unclear


def interpolated(value: Any) -> bool:
    """Whether a value is computed from others, or has still to be given."""
    return isinstance(value, str) and ("${" in value or value == "???")


def paths(config: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """All dotted keys of a config."""
    for name, value in config.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from paths(value, f"{prefix}{name}.")


def siblings(key: str, known: Sequence[str]) -> str:
    """The key next to this one with nearly its name; empty if there is none."""
    parent, _, name = key.rpartition(".")
    names = [other.rpartition(".")[2] for other in known if other.rpartition(".")[0] == parent]
    near = difflib.get_close_matches(name, names, 1, 0.7)
    return f"{parent}.{near[0]}" if near and parent else "".join(near)


def elsewhere(key: str, known: Sequence[str]) -> str:
    """Up to three keys with this name in other places, or one that is spelt nearly like it; empty if there is none."""
    name, known = key.rpartition(".")[2], [other for other in known if not key.startswith(f"{other}.")]
    near = difflib.get_close_matches(key, known, 1, 0.75)
    same = difflib.get_close_matches(key, [other for other in known if other.rpartition(".")[2] == name], 3, 0.0)
    return ", ".join(same if "." not in key else same[:1]) or "".join(near)


def objection(default: Any, value: Any) -> str:
    """The expected kind where a value is of the wrong type; else an empty text."""
    if default is None or value is None or interpolated(value):
        return ""
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "true or false"
    if isinstance(default, int):  # 1e3 is one too
        whole = not isinstance(value, bool) and (
            isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        )
        return "" if whole else "a whole number"
    if isinstance(default, float):
        return "" if isinstance(value, int | float) and not isinstance(value, bool) else "a number"
    if isinstance(default, list):
        return "" if isinstance(value, list) else "a list"
    return "a single value" if isinstance(value, list | dict) else ""


def shown(value: Any) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(shown, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
