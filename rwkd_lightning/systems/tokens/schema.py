"""The keys of a token classifier's config."""

from __future__ import annotations

from rwkd_lightning.cli.kinds import (
    AMOUNT,
    BLOCKS,
    COUNT,
    NAMES,
    PATH,
    SHARE,
    SPLITS,
    TEACHER,
    TEXT,
    YES_NO,
    Schema,
    number,
    one_of,
    or_null,
    whole,
)
from rwkd_lightning.systems.tokens.schemes import SCHEMES

CUT = number("a number above 0 and up to 0.5", lambda x: 0 < x <= 0.5)
COLUMN = whole(-1000, 1000)

SCHEMA = Schema(
    needed={
        "task.regression": or_null(YES_NO),
        **SPLITS,
        "data.train": or_null(PATH),
        "data.validation": or_null(PATH),
        "data.test": or_null(PATH),
        "data.token_column": COLUMN,
        "data.tag_column": COLUMN,
        "data.tokens": TEXT,
        "data.tags": TEXT,
        "data.weight": or_null(TEXT),
        "data.scheme": or_null(one_of(*SCHEMES)),
        "data.encoding": or_null(TEXT),
        "data.validation_fraction": CUT,
        "data.test_fraction": CUT,
        "data.max_length": COUNT,
        "data.label_noise": SHARE,
        **TEACHER,
        "pair.teacher.path": PATH,
        "pair.teacher.warmup": SHARE,
        "pair.teacher.weight_decay": AMOUNT,
        "pair.teacher.new_head": YES_NO,
        "pair.teacher.labels": or_null(NAMES),
        "pair.student.path": PATH,
        "pair.student.layers": BLOCKS,
        "pair.student.new_head": YES_NO,
    },
    optional={"pair.blocks.*": BLOCKS},
)
