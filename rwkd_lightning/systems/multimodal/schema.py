"""The keys of the config of text and picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rwkd_lightning.cli.kinds import (
    AMOUNT,
    BLOCKS,
    COUNT,
    NAMES,
    PATH,
    RATE,
    SHARE,
    SPLITS,
    TEACHER,
    TEXT,
    YES_NO,
    Schema,
    one_of,
    or_null,
    whole,
)
from rwkd_lightning.systems.multimodal.emoji import TEXTS
from rwkd_lightning.systems.multimodal.fusion import PASSES
from rwkd_lightning.systems.multimodal.saliency import LEVELS, SCORES
from rwkd_lightning.systems.text.schema import CLASSES, CUT
from rwkd_lightning.utils.errors import UserError


def check_student(given: Mapping[str, Any]) -> None:
    """Refuse terms of a modality for a student that sees one alone, whose only pass it is."""
    seen, terms = given.get("pair.student.modalities"), given.get("task.terms") or []
    asked = [name for name in given.get("terms") or terms if str(name).endswith(("_text", "_image"))]
    if seen in PASSES[1:] and asked:
        raise UserError(
            f"pair.student.modalities={seen} is a student of one modality, and terms has {asked[0]}, of a part of the "
            "input; set terms=[ce,kd]"
        )


COLUMNS = {
    "texts": one_of(*TEXTS),
    "text": TEXT,
    "image": TEXT,
    "label": TEXT,
    "separator": or_null(TEXT),
    "classes": or_null(CLASSES),
}

SCHEMA = Schema(
    needed={
        "task.regression": or_null(YES_NO),
        **SPLITS,
        "data.max_length": whole(3),
        "data.label_noise": SHARE,
        "data.text_noise": SHARE,
        "data.image_noise": SHARE,
        "data.validation_fraction": CUT,
        "data.test_fraction": CUT,
        **TEACHER,
        "pair.teacher.path": PATH,
        "pair.teacher.warmup": SHARE,
        "pair.teacher.weight_decay": AMOUNT,
        "pair.teacher.modality_dropout": SHARE,
        "pair.student.path": PATH,
        "pair.student.layers": BLOCKS,
        "pair.student.modalities": one_of(*PASSES),
        "pair.encoder.path": PATH,
        "pair.encoder.size": whole(32, 1024),
        "pair.encoder.grid": whole(1, 14),
    },
    optional={
        "pair.blocks.*": BLOCKS,
        "loss_terms.*mask": TEXT,
        "loss_terms.*output": TEXT,
        **{f"{group}.{key}": kind for key, kind in COLUMNS.items() for group in ("data", "task.load")},
        "task.load.validation_fraction": CUT,
        "task.load.test_fraction": CUT,
        "task.terms_of.*": NAMES,
        "data.several": YES_NO,
        "weighting.level": one_of(*LEVELS),
        "weighting.by": one_of(*SCORES),
        "weighting.normalise": YES_NO,
        "weighting.beta": AMOUNT,
        "weighting.tau": RATE,
        "meta_features.width": COUNT,
    },
    checks=(check_student,),
)
