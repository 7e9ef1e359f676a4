"""The files of a finished text student, and what the corrupted rows of its training show."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

from rwkd_lightning.run.outputs import ROW_GROUP, area_under_roc, differs, whole
from rwkd_lightning.systems.text.compression.files import FACTORED, factored_of, multiplied_out
from rwkd_lightning.systems.text.compression.files import write as write_factored
from rwkd_lightning.systems.text.data.datamodule import DistillationDataModule
from rwkd_lightning.systems.text.data.task import UNLABELLED
from rwkd_lightning.systems.text.models import load_tokenizer
from rwkd_lightning.systems.text.models.loading import SEQUENCE, Kind
from rwkd_lightning.systems.text.models.lora import merged
from rwkd_lightning.systems.text.models.probing import probe_ids, taking
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.model_files import size


def write_student(folder: Path, student: Any, tokenizer: Any, describe: Callable[[Path], None]) -> int:
    """``student/`` for ``from_pretrained`` of its kind; returns the bytes of its weights.

    Args:
        describe: adds to the folder how rows are read.
    """
    with whole(folder) as part:
        save(part, student, tokenizer)
        describe(part)
    return size(folder)


def save(folder: Path, student: Any, tokenizer: Any) -> None:
    """Write a student's network, its low-rank updates merged and its word table whole, and its tokenizer; a word
    table in factors also as it is.
    """
    multiplied_out(merged(student.network)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if factored_of(student.network) is not None:
        write_factored(folder / FACTORED, student.network, tokenizer)


def try_writing(folder: Path, student: Any, tokenizer: Any, source: str, kind: Kind = SEQUENCE) -> None:
    """Write an untrained model into ``folder``, load it again as its users will, and leave nothing behind.

    Args:
        folder: where the temporary one is made.
        student: the model, whose attribute ``network`` is transformers' own.
        tokenizer: its own.
        source: for messages, the setting that it comes from, as ``pair.student.path=PATH``.
        kind: which sort of head it has.

    Raises:
        UserError: if it cannot be written or loaded, or says other things than the one in memory: after the training
            there would be no student.
    """
    import transformers

    ids = probe_ids(student.network, 16)
    with tempfile.TemporaryDirectory(prefix=".student-", dir=folder) as part, torch.random.fork_rng(devices=[]):
        try:
            save(Path(part), student, tokenizer)
            load_tokenizer(part)
            again = getattr(transformers, kind.auto).from_pretrained(part, trust_remote_code=False)
            same = torch.allclose(taking(again, ids), taking(student.network, ids), atol=1e-5)
        except (OSError, SafetensorError):  # of the disk, not of the model
            raise
        except Exception as error:  # configs are checked by their classes, which raise what they like
            reason = " ".join(str(error).split())[:160].replace(part, "the folder")
            raise UserError(
                f"{source}: this model cannot be written and loaded again ({reason}); give another, or use "
                "pair.student.layers=null if it was cut"
            ) from error
    if not same:
        raise UserError(
            f"{source}: written and loaded again, this model says other things than before; give another, or use "
            "pair.student.layers=null if it was cut"
        )


def teacher_ce(data: DistillationDataModule) -> dict[str, Tensor]:
    """``loss_teacher_ce`` ``(N,)``: the teacher's own cross-entropy on the training rows; nothing for a regression.

    NaN for a row without a label, or of which the teacher says nothing.
    """
    logits = data.rows(data.train_split).extras.get("teacher_logits")
    if logits is None or data.task.is_regression:
        return {}
    labels = data.train_labels
    groups = [slice(start, start + ROW_GROUP) for start in range(0, data.train_size, ROW_GROUP)]
    losses = torch.cat([label_loss(logits[rows].float(), labels[rows]) for rows in groups])
    unknown = ~data.rows(data.train_split).extras.get("teacher_logits_known", torch.tensor(True))
    lacking = (labels == UNLABELLED) if labels.ndim == 1 else (labels == UNLABELLED).any(1)
    return {"loss_teacher_ce": losses.masked_fill_(lacking | unknown, torch.nan)}


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy ``(N,)`` with classes ``(N,)``, or the mean binary one with several labels ``(N, C)``."""
    if labels.ndim == 1:
        return F.cross_entropy(logits, labels, ignore_index=UNLABELLED, reduction="none")
    return F.binary_cross_entropy_with_logits(logits, labels.clamp_min(0), reduction="none").mean(1)


def corruption_scores(columns: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """How well weights, influences and plain losses find what was corrupted on purpose: areas under the ROC curve.

    Corrupted teacher outputs are looked for among rows with clean labels, flipped labels among rows with a sound
    teacher; every figure is oriented so that 1 finds them all and 0.5 is chance. All figures are of the same rows:
    those that the training has seen and for which no column is missing, so rows without a label do not count.
    """
    flipped, corrupted = columns["label_flipped"], columns["teacher_corrupted"]
    found: dict[str, dict[str, float]] = {}
    for name, flag, others, term in (
        ("teacher_corrupted", corrupted, ~flipped, "kd"),
        ("label_flipped", flipped, ~corrupted, "ce"),
    ):
        trusted = (
            {"weight": columns[f"w_{term}"], "influence": columns[f"influence_{term}"]}
            if f"w_{term}" in columns
            else {}
        )
        suspicion = {n: -c for n, c in trusted.items() if differs(c)}
        suspicion |= {n: columns[n] for n in ("loss_teacher_ce", "loss_ce", "loss_kd") if n in columns}
        rows = others & (columns["visits"] > 0)
        for column in suspicion.values():
            rows = rows & column.isfinite()
        positives = flag[rows]
        if bool(positives.any()) and not bool(positives.all()):
            found[name] = {n: area_under_roc(c[rows], positives) for n, c in suspicion.items()}
    return found
