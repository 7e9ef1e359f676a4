"""The keys of a token classifier's config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rwkd_lightning.cli.kinds import (
    BLOCKS,
    COUNT,
    PATH,
    SHARE,
    SPLITS,
    TEXT,
    YES_NO,
    Schema,
    one_of,
    or_null,
    whole,
)
from rwkd_lightning.systems.text.schema import CUT, PAIR
from rwkd_lightning.systems.tokens.schemes import SCHEMES
from rwkd_lightning.utils.errors import UserError

COLUMN = whole(-1000, 1000)

FILES = {
    "train": or_null(PATH),
    "validation": or_null(PATH),
    "test": or_null(PATH),
    "token_column": COLUMN,
    "tag_column": COLUMN,
    "tokens": TEXT,
    "tags": TEXT,
    "weight": or_null(TEXT),
    "scheme": or_null(one_of(*SCHEMES)),
    "encoding": or_null(TEXT),
    "validation_fraction": CUT,
    "test_fraction": CUT,
}
"""Keys of ``data`` that say how the files are read."""


def check_path(given: Mapping[str, Any]) -> None:
    """Raise UserError for ``data.path``, by which other tasks name their data."""
    if given.get("data.path") is not None:
        raise UserError(
            f"data.path={given['data.path']} is not read by task=tokens; give data.train=FILE, and "
            "data.test if there is one"
        )


def check_lora(given: Mapping[str, Any]) -> None:
    """Raise UserError for low-rank updates, which token classifiers do not have."""
    if given.get("pair.student.lora") is not None:
        raise UserError("pair.student.lora is not for task=tokens, whose student is trained whole; leave it out")


SCHEMA = Schema(
    needed={
        "task.regression": or_null(YES_NO),
        **SPLITS,
        **{f"data.{key}": kind for key, kind in FILES.items()},
        "data.max_length": COUNT,
        "data.label_noise": SHARE,
        **PAIR,
        "pair.teacher.path": PATH,
    },
    optional={
        "pair.blocks.*": BLOCKS,
        "loss_terms.*mask": TEXT,
        **{f"task.load.{key}": kind for key, kind in FILES.items()},
    },
    checks=(check_path, check_lora),
)
