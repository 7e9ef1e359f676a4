"""The keys of a topic model's config, and its published settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rwkd_lightning.cli.kinds import (
    ALPHA,
    BETAS,
    COUNT,
    GROUP,
    NAMES,
    PATH,
    RATE,
    SEED,
    SPLITS,
    TEACHER,
    TEXT,
    YES_NO,
    Kind,
    Schema,
    either,
    number,
    one_of,
    or_null,
    whole,
)
from rwkd_lightning.utils.errors import UserError


def check_published(given: Mapping[str, Any]) -> None:
    """Raise UserError for a corpus or a number of topics without published settings."""
    if all(given.get(key, 0) is not None for key in ("alpha", "temperature", "pair.teacher.layers")):
        return
    known = [
        f"task.settings={name} task.topics={','.join(by_k)}" for name, by_k in given.get("task.published", {}).items()
    ]
    raise UserError(
        f"task.settings={given['task.settings']} task.topics={given['task.topics']} has no published α, T and depth of "
        f"the teacher; known are {' and '.join(known)}; or give alpha=0.5 temperature=2.0 pair.teacher.layers=2"
    )


SCHEMA = Schema(
    needed={
        "task.regression": or_null(YES_NO),
        "task.topics": whole(2, 10_000),
        "task.distillation": one_of("none", "soft_ce", "w2", "full"),
        "task.settings": TEXT,
        **SPLITS,
        "data.test_fraction": number("a number from 0 to 0.5", lambda x: 0 <= x <= 0.5),
        **TEACHER,
        "pair.teacher.encoder": PATH,
        "pair.teacher.layers": whole(0, 100),
        "pair.teacher.bag_of_words": YES_NO,
        "pair.teacher.normalised": YES_NO,
        "pair.teacher.betas": BETAS,
        "pair.student.encoder": PATH,
        "pair.student.layers": whole(0, 100),
        "pair.student.bag_of_words": YES_NO,
    },
    optional={
        "task.load.text_column": or_null(TEXT),
        "task.load.label_column": or_null(TEXT),
        "task.load.min_documents": or_null(COUNT),
        "task.load.max_share": or_null(number("a number above 0 and up to 1", lambda x: 0 < x <= 1)),
        "task.load.delimiter": or_null(Kind("a single character", lambda x: isinstance(x, str) and len(x) == 1)),
        "task.load.tokenizer": or_null(either(TEXT, GROUP)),
        "task.load.stop_words": or_null(TEXT),
        "task.load.token_pattern": or_null(TEXT),
        "task.load.min_letters": or_null(whole(1, 100)),
        "task.load.max_words": or_null(whole(2)),
        "task.load.documents": or_null(COUNT),
        "task.load.seed": or_null(SEED),
        "task.distillations": GROUP,
        "task.distillations.*": NAMES,
        "task.published.*.alpha": ALPHA,
        "task.published.*.temperature": RATE,
        "task.published.*.layers": whole(0, 100),
        "task.published*": GROUP,
    },
    checks=(check_published,),
)
