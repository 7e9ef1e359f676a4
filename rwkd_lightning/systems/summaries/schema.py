"""The keys of a summariser's config."""

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
    Schema,
    number,
    one_of,
    or_null,
    whole,
)

CUT = number("a number above 0 and up to 0.5", lambda x: 0 < x <= 0.5)
FILES = {
    "document": TEXT,
    "summary": TEXT,
    "family": or_null(TEXT),
    "encoding": or_null(TEXT),
    "validation_fraction": CUT,
    "test_fraction": CUT,
}
"""Keys of ``data`` that say how the files are read."""
SIZES = {
    "width": COUNT,
    "encoder_layers": whole(1, 100),
    "decoder_layers": whole(1, 100),
    "heads": COUNT,
    "ffn": COUNT,
    "dropout": SHARE,
}

SCHEMA = Schema(
    needed={
        "task.regression": or_null(YES_NO),
        **SPLITS,
        **{f"data.{key}": kind for key, kind in FILES.items()},
        "data.document_length": COUNT,
        "data.summary_length": COUNT,
        "data.vocabulary": whole(300),
        "data.noise_drop": SHARE,
        "data.noise_shuffle": whole(0),
        "data.targets": one_of("reference", "teacher"),
        "data.score_rows": or_null(COUNT),
        "data.decoding.beams": COUNT,
        "data.decoding.length_penalty": number(),
        "data.decoding.no_repeat_ngram": whole(0),
        "data.label_noise": SHARE,
        **TEACHER,
        "pair.teacher.path": or_null(PATH),
        "pair.teacher.warmup": SHARE,
        "pair.teacher.weight_decay": AMOUNT,
        "pair.teacher.smoothing": SHARE,
        "pair.teacher.dropout": SHARE,
        "pair.teacher.along": YES_NO,
        "pair.teacher.passes": whole(0, 1000),
        "pair.teacher.top_k": COUNT,
        **{f"pair.teacher.model.{key}": kind for key, kind in SIZES.items()},
        "pair.student.path": or_null(PATH),
        "pair.student.encoder_layers": BLOCKS,
        "pair.student.decoder_layers": BLOCKS,
        **{f"pair.student.model.{key}": kind for key, kind in SIZES.items()},
    },
    optional={
        "loss_terms.*.smoothing": SHARE,
        "loss_terms.*.length_weighted": YES_NO,
        "loss_terms.*.temperature": RATE,
        "meta.theta.tokens": COUNT,
        **{f"task.load.{key}": kind for key, kind in FILES.items()},
    },
)
