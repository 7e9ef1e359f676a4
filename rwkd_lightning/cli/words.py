"""From Python, which the library's messages speak in backticks, to the keys of the command line.

A message names an argument as ```lr` is -1``, ```every=2``` or ```weighting.lr```, and another class as ```Head()```.
The first is an argument of the object that is being made, whose key `run.create` knows, or one of `KEYS`; the last one
of `OPTIONS`. Anything else in backticks stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
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
    "precision": "trainer.precision",
    "weighting": "weighting",
    "optimizer.lr": "optimizer.lr",
    "features": "meta_features",
    "label_flipped": "data.label_noise",
    "teacher_corrupted": "data.teacher_noise",
    "sample_weight": "data.weight",
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
OPTIONS = {
    "RWKD()": "weighting=rwkd",
    "FixedAlpha()": "weighting=kd",
    "LabelsOnly()": "weighting=ce",
    "TeacherAnnealing()": "weighting=annealed",
    "DynamicWeightAverage()": "weighting=dwa",
    "Uncertainty()": "weighting=uncertainty",
    "MetaWeightNet()": "weighting=mwn",
    "ClassificationFeatures()": "meta_features=standard",
    "EarlierWeights": "meta_features=history",
    "strategy=ddp": "trainer=ddp",
}
QUOTED = re.compile(r"`([\w.]+(?:\(\))?(?:=[^`]*)?)`")


def in_config_words(message: str, node: str = "", arguments: Collection[str] = ()) -> str:
    """The message in the words of the command line.

    Args:
        node: the key of the object that is being made.
        arguments: those that its class takes.
    """

    def spelled(match: re.Match[str]) -> str:
        name, equals, value = match[1].partition("=")
        if match[1] in OPTIONS:
            return OPTIONS[match[1]]
        if name.partition(".")[0] in arguments:
            name = f"{node}.{name}"
        elif name in KEYS or name.startswith("weighting."):
            name = KEYS.get(name, name)
        else:
            return match[0]
        return f"{name}{equals}{VALUES.get(value, value)}"

    return QUOTED.sub(spelled, message)


@contextmanager
def config_words() -> Iterator[None]:
    """Let the library's errors speak of keys, for whoever typed keys."""
    try:
        yield
    except UserError as error:
        error.args = (in_config_words(str(error)),)
        raise
