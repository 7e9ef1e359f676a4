"""``train.py task=pairs`` in two processes, with half the batch each, is one process with all of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.distributed.two_runs import check_one, two_and_one
from tests.systems.multimodal.conftest import image_encoder, overrides, pairs, write_text_model

__all__ = ["image_encoder", "pairs"]
TERMS = ("ce", "kd", "kd_text", "kd_image")


@pytest.mark.parametrize("more", ["weighting=rwkd", "meta=all", "weighting=saliency"])
def test_two_processes_are_one(more: str, pairs: Path, image_encoder: Path, tmp_path: Path) -> None:
    """Prevents: a bank of modalities that each process fills with its own rows, shares of the modalities over one
    process's rows, features or a teacher that are made twice.
    """
    still = write_text_model(tmp_path / "still", dropout=0.0)
    cache = tmp_path / "cache"
    given = [
        *overrides(pairs, still, image_encoder, cache, tmp_path / "runs"),
        more,
        "meta.start=0",
        "trainer.precision=64-true",
        "data.teacher_noise=0.3",
        "data.text_noise=0.3",
        "pair.teacher.epochs=1",
        "pair.teacher.modality_dropout=0",
    ]
    folders = two_and_one(given, tmp_path)
    for kind in ("multimodal_teacher", "multimodal_answers", "picture_features"):
        assert len(list((cache / kind).glob("*/key.json"))) == 1
    learned = more != "weighting=saliency"
    columns = [f"{what}_{term}" for term in TERMS for what in (("w", "influence", "loss") if learned else ("loss",))]
    check_one(folders, columns)
