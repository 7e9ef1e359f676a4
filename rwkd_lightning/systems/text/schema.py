"""The keys of a text classifier's or regression's config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rwkd_lightning.cli.keys import shown
from rwkd_lightning.cli.kinds import (
    AMOUNT,
    BLOCKS,
    COUNT,
    GROUP,
    NAMES,
    PATH,
    RATE,
    SHARE,
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
    several,
    whole,
)
from rwkd_lightning.systems.text.compression.names import METHODS, REFINES, SCORES
from rwkd_lightning.systems.text.data.overflow import KINDS
from rwkd_lightning.utils.errors import UserError

CLASSES = Kind(
    "a list of two or more names",
    lambda x: isinstance(x, list) and len(x) > 1 and all(isinstance(name, str | int) for name in x),
)
COLUMNS = Kind(
    "a column, a list of columns, or {CLASS: COLUMN, ...}",
    lambda x: TEXT.fits(x) or several(TEXT).fits(x) or (isinstance(x, dict) and bool(x)),
)
LORA = {
    "rank": whole(1, 10_000),
    "alpha": or_null(RATE),
    "dropout": SHARE,
    "targets": or_null(Kind("a list of names, each once: [query,value]", NAMES.fits)),
}
KIND = {
    "name": one_of("bilstm", "cnn", "static"),
    "hidden_size": or_null(COUNT),
    "num_hidden_layers": or_null(whole(1, 100)),
    "dropout": or_null(SHARE),
    "kernel": or_null(whole(1, 1001)),
    "embedding_size": or_null(COUNT),
}
EMBEDDING = {
    "method": one_of(*METHODS),
    "ratio": number("a number above 1", lambda x: x > 1),
    "scores": one_of(*SCORES),
    "blocks": whole(1, 100),
    "refine": one_of(*REFINES),
}
CUT = number("a number above 0 and up to 0.5", lambda x: 0 < x <= 0.5)
PAIR = {
    **TEACHER,
    "pair.teacher.warmup": SHARE,
    "pair.teacher.weight_decay": AMOUNT,
    "pair.teacher.new_head": YES_NO,
    "pair.teacher.labels": or_null(NAMES),
    "pair.student.path": PATH,
    "pair.student.layers": BLOCKS,
    "pair.student.new_head": YES_NO,
}
"""Keys of two Hugging Face models, whatever their heads; the teacher's path is beside them."""


def check_stride(given: Mapping[str, Any]) -> None:
    """Refuse an overlap of windows where there are none."""
    if given.get("data.stride") is not None and given.get("data.overflow") != "windows":
        raise UserError(
            f"data.stride={shown(given['data.stride'])} is how far windows overlap, and "
            f"data.overflow={shown(given.get('data.overflow'))} makes none; add data.overflow=windows, or leave it out"
        )


def check_embedding(given: Mapping[str, Any]) -> None:
    """Refuse low-rank updates of a student whose word table is trained in factors."""
    if given.get("pair.student.embedding") is not None and given.get("pair.student.lora") is not None:
        raise UserError(
            "pair.student.lora freezes the word table, and pair.student.embedding wants it trained in factors; set "
            "pair.student.lora=null, or compress the finished run"
        )


def check_kind(given: Mapping[str, Any]) -> None:
    """Refuse what a student of another kind does not have: a body that was trained, and blocks of a model's."""
    kind = given.get("pair.student.kind.name")
    if kind is None:
        return
    for key, why in (("layers", "keeps blocks of a model"), ("lora", "updates a trained body")):
        if given.get(f"pair.student.{key}") is not None:
            raise UserError(
                f"pair.student.{key}={shown(given[f'pair.student.{key}'])} {why}, and a {kind} begins without one; set "
                f"pair.student.{key}=null"
            )


SCHEMA = Schema(
    needed={
        "task.regression": YES_NO,
        **SPLITS,
        "data.max_length": COUNT,
        "data.overflow": one_of(*KINDS),
        "data.stride": or_null(whole(0)),
        "data.leaderboard": YES_NO,
        "data.label_noise": SHARE,
        "data.label_noise_kind": one_of("uniform", "pair"),
        "data.meta_noise": SHARE,
        **PAIR,
        "pair.teacher.path": either(PATH, several(PATH, 2)),
        "pair.teacher.mean": one_of("logits", "probabilities"),
    },
    optional={
        "pair.blocks.*": BLOCKS,
        "pair.student.lora": or_null(
            either(
                LORA["rank"],
                Kind(
                    f"a group with rank, and perhaps {', '.join(name for name in LORA if name != 'rank')}",
                    lambda x: isinstance(x, dict) and "rank" in x and set(x) <= set(LORA),
                ),
            )
        ),
        **{f"pair.student.lora.{key}": kind for key, kind in LORA.items()},
        "pair.student.kind": or_null(
            Kind("a group with name", lambda x: isinstance(x, dict) and "name" in x and set(x) <= set(KIND))
        ),
        **{f"pair.student.kind.{key}": kind for key, kind in KIND.items()},
        "pair.student.table": PATH,
        "pair.student.embedding": or_null(
            Kind(f"a group of {', '.join(EMBEDDING)}", lambda x: isinstance(x, dict) and set(x) <= set(EMBEDDING))
        ),
        **{f"pair.student.embedding.{key}": kind for key, kind in EMBEDDING.items()},
        "task.load.task": TEXT,
        "data.train": or_null(PATH),
        "data.validation": or_null(PATH),
        "data.test": or_null(PATH),
        "data.text": or_null(either(TEXT, several(TEXT))),
        "data.label": either(TEXT, several(TEXT, 2)),
        "data.regression": YES_NO,
        "data.multilabel": YES_NO,
        "data.separator": TEXT,
        "task.multilabel": YES_NO,
        "data.classes": or_null(CLASSES),
        "data.group": or_null(TEXT),
        "data.near_copies": or_null(number("a number from 0.5 to 1", lambda x: 0.5 <= x <= 1)),
        "data.weight": or_null(TEXT),
        "data.teacher_probabilities": or_null(COLUMNS),
        "data.teacher_logits": or_null(COLUMNS),
        "data.teacher_logprobs": or_null(TEXT),
        "data.teacher_*.*": TEXT,
        "data.encoding": or_null(TEXT),
        "data.delimiter": or_null(Kind("a single character", lambda x: isinstance(x, str) and len(x) == 1)),
        "data.validation_fraction": CUT,
        "data.test_fraction": CUT,
        "task.load.sizes": or_null(GROUP),
        "task.load.sizes.*": whole(1, 10**9),
        "task.load.meta_fraction": number(),
        "task.load.leaderboard": YES_NO,
        "loss_terms.hidden.layers": either(TEXT, several(several(whole(0)))),
        "loss_terms.*.pool": TEXT,
        "loss_terms.*.energy": TEXT,
        "loss_terms.*.over": TEXT,
        "loss_terms.*.mix": TEXT,
        "loss_terms.*.attention_gradient": YES_NO,
        "loss_terms.*student_layers": either(TEXT, several(whole(0))),
        "loss_terms.*teacher_layers": either(TEXT, several(whole(0))),
        "loss_terms.*heads": whole(1),
        "loss_terms.*_layer": or_null(whole(0)),
        "loss_terms.*_output": TEXT,
    },
    checks=(check_stride, check_kind, check_embedding),
)
