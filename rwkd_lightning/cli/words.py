"""From the arguments of Python, which the library's messages name in backticks, to the keys of the command line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from rwkd_lightning.utils.errors import UserError

KEYS = {
    "accumulate": "trainer.accumulate",
    "clip": "trainer.clip",
    "max_epochs": "trainer.max_epochs",
    "max_steps": "trainer.max_steps",
    "updated_weights": "meta.weights",
    "lookahead_lr": "meta.lookahead_lr",
    "every": "meta.every",
    "start": "meta.start",
    "theta": "meta",
    "engine": "meta/engine",
}
VALUES = {
    "None": "null",
    "'new'": "new",
    "All()": "all",
    "LastBlock()": "last_block",
    "Head()": "head",
    "HeadWithBank()": "bank",
    "FiniteDifference()": "finite_difference",
    "Jvp()": "jvp",
    "Unrolled()": "unrolled",
}
QUOTED = re.compile(r"`(\w+)(?:=([^`]*))?`")


def in_config_words(message: str) -> str:
    """The message with ```every=2``` as ``meta.every=2``; what the table lacks stays as it is."""

    def spelled(match: re.Match[str]) -> str:
        name, value = match.groups()
        if name not in KEYS:
            return match[0]
        return KEYS[name] if value is None else f"{KEYS[name]}={VALUES.get(value, value)}"

    return QUOTED.sub(spelled, message)


@contextmanager
def config_words() -> Iterator[None]:
    """Let the library's errors speak of keys, for whoever typed keys."""
    try:
        yield
    except UserError as error:
        error.args = (in_config_words(str(error)),)
        raise
