"""The kinds of values that a config holds, in words and as a test; `Schema`: the keys of one part of the package."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from rwkd_lightning.cli.keys import shown
from rwkd_lightning.utils.errors import UserError

T = TypeVar("T")


class Kind(NamedTuple):
    """The values that a key takes, in words and as a test."""

    words: str
    fits: Callable[[Any], bool]


def whole(low: int, high: int = 10**6) -> Kind:
    """An integer; 16.0 is refused because torch refuses it."""
    return Kind(f"a whole number from {low:,} to {high:,}", lambda x: type(x) is int and low <= x <= high)


def number(words: str = "a finite number", fits: Callable[[float], bool] = lambda x: True) -> Kind:
    """A finite number that float32 can hold."""
    return Kind(words, lambda x: type(x) in (int, float) and abs(x) <= 1e30 and fits(x))


def one_of(*names: Any) -> Kind:
    """One of these, and of the same type."""
    return Kind(
        f"one of {', '.join(map(shown, names))}", lambda x: any(type(x) is type(name) and x == name for name in names)
    )


def several(kind: Kind, least: int = 1) -> Kind:
    """A list."""
    return Kind(
        f"a list of {least} or more, each {kind.words}",
        lambda x: isinstance(x, list) and len(x) >= least and all(map(kind.fits, x)),
    )


def or_null(kind: Kind) -> Kind:
    """Or nothing at all."""
    return Kind(f"{kind.words}, or null", lambda x: x is None or kind.fits(x))


def either(one: Kind, other: Kind) -> Kind:
    """One of two kinds."""
    return Kind(f"{one.words}, or {other.words}", lambda x: one.fits(x) or other.fits(x))


TEXT = Kind("a text", lambda x: isinstance(x, str) and x != "")
PATH = Kind("a path (./3 for one that is called 3)", TEXT.fits)
YES_NO = Kind("true or false", lambda x: isinstance(x, bool))
NAMES = Kind("a list of names, each once", lambda x: several(TEXT).fits(x) and len(set(x)) == len(x))
SEED = whole(0, 2**32 - 1)
COUNT = whole(1)
RATE = number("a number above 0", lambda x: x > 0)
SHARE = number("a number from 0 up to, but not including, 1", lambda x: 0 <= x < 1)
ALPHA = number("a number from 0 to 1", lambda x: 0 <= x <= 1)
BETAS = Kind(
    "two numbers from 0 up to, but not including, 1: [0.9, 0.999]", lambda x: several(SHARE, 2).fits(x) and len(x) == 2
)
AMOUNT = number("a number, 0 or above", lambda x: x >= 0)
PRECISION = Kind("32-true or bf16-mixed", lambda x: (type(x) is int and x == 32) or TEXT.fits(x))
BLOCKS = or_null(several(whole(0)))
GROUP = Kind("a group of keys", lambda x: isinstance(x, dict))
ANY = Kind("anything", lambda x: True)


@dataclass(frozen=True)
class Schema:
    """The keys that a system has beyond those of every run; a key without a row may hold anything.

    Attributes:
        needed: keys without which no run of the system starts.
        optional: patterns of keys that some options have; the first one that fits counts.
        checks: called with all keys and values, resolved, before any value is looked at; each raises UserError for
            values that do not go together, and for a missing value whose reason lies in another key.
    """

    needed: Mapping[str, Kind] = field(default_factory=dict)
    optional: Mapping[str, Kind] = field(default_factory=dict)
    checks: tuple[Callable[[Mapping[str, Any]], None], ...] = ()


TEACHER = {
    "task.teacher_epochs": whole(0),
    "temperature": RATE,
    "pair.teacher.epochs": whole(0),
    "pair.teacher.lr": RATE,
    "pair.teacher.batch_size": COUNT,
    "pair.teacher.seed": SEED,
    "pair.teacher.precision": PRECISION,
}
"""Keys of a system that trains a teacher of its own."""
SPLITS = {
    "data.path": or_null(PATH),
    "data.meta_fraction": number("a number above 0 and up to 0.5", lambda x: 0 < x <= 0.5),
    "data.split_seed": SEED,
    "data.teacher_noise": SHARE,
}
"""Keys of a system that reads one source of data and holds a part of it out."""


def check_value(key: str, value: Any, kind: Kind) -> None:
    """Check one value; UserError where it is of another kind."""
    if value == "???":
        raise UserError(f"{key} has no value yet; give {key}=..., {kind.words}")
    for text in inside(value, str):
        if any(ord(c) < 32 or ord(c) == 127 for c in text):
            raise UserError(f"{key}={text!r} holds a control character; leave it out")
    if any(not math.isfinite(x) for x in inside(value, float)):
        raise UserError(
            f"{key}={shown(value)} is not finite; give {kind.words if kind is not ANY else 'a finite number'}"
        )
    if not kind.fits(value):
        if isinstance(value, float) and value.is_integer() and kind.fits(int(value)):
            raise UserError(f"{key}={value} is written as a fraction; write {key}={int(value)}")
        raise UserError(f"{key} is {brief(value)}; give {kind.words}")


def inside(value: Any, kind: type[T]) -> Iterator[T]:
    """All parts of a value that are of this type, lists within lists included."""
    if isinstance(value, kind):
        yield value
    elif isinstance(value, list):
        for inner in value:
            yield from inside(inner, kind)


def brief(value: Any) -> str:
    """A value for a message."""
    text = repr(value) if isinstance(value, str) else shown(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def first_line(error: BaseException) -> str:
    """The first line of an error."""
    return (str(error).splitlines() or [type(error).__name__])[0]
