"""The keys of a retrieval run's config."""

from __future__ import annotations

from rwkd_lightning.cli.kinds import (
    AMOUNT,
    BLOCKS,
    COUNT,
    PATH,
    RATE,
    SHARE,
    SPLITS,
    TEACHER,
    TEXT,
    YES_NO,
    Kind,
    Schema,
    number,
    one_of,
    or_null,
    whole,
)

NEGATIVES = Kind("bm25, teacher, none, or the folder of a finished run", TEXT.fits)
RELEVANCE = "relevance"
CUT = number("a number above 0 and up to 0.5", lambda x: 0 < x <= 0.5)

SCHEMA = Schema(
    needed={
        "task.regression": or_null(YES_NO),
        **SPLITS,
        "data.validation_fraction": CUT,
        "data.query_length": COUNT,
        "data.document_length": COUNT,
        "data.negatives": NEGATIVES,
        "data.negative_margin": or_null(number()),
        "data.negatives_each": COUNT,
        "data.negative_depth": COUNT,
        "data.meta_negatives": COUNT,
        "data.label_noise": SHARE,
        "data.weight": or_null(one_of(RELEVANCE)),
        **TEACHER,
        "pair.teacher.path": PATH,
        "pair.teacher.negatives": NEGATIVES,
        "pair.teacher.width": or_null(whole(2)),
        "pair.teacher.temperature": RATE,
        "pair.teacher.warmup": SHARE,
        "pair.teacher.weight_decay": AMOUNT,
        "pair.student.path": PATH,
        "pair.student.layers": BLOCKS,
        "pair.student.width": or_null(whole(2)),
        "pair.student.temperature": RATE,
    },
    optional={"pair.blocks.*": BLOCKS, "loss_terms.*.scale": RATE},
)
