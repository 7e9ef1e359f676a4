"""The teacher of summarisation, trained once, and the summaries that it writes; both shared by all runs."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from omegaconf import DictConfig

from rwkd_lightning.cache.store import Store, digest
from rwkd_lightning.run.identity import keyed, only
from rwkd_lightning.run.system import Run, Teacher
from rwkd_lightning.run.train_once import Fit, train_once
from rwkd_lightning.systems.summaries.data import META, TRAIN, Split, SummaryData
from rwkd_lightning.systems.summaries.datamodule import SummaryDataModule
from rwkd_lightning.systems.summaries.decode import SETTINGS, generation_config, written
from rwkd_lightning.systems.summaries.loading import (
    load_summariser,
    load_summary_tokenizer,
    new_summariser,
    save,
    start_of,
)
from rwkd_lightning.systems.summaries.summariser import Summariser
from rwkd_lightning.systems.summaries.terms import TokenCrossEntropy
from rwkd_lightning.systems.summaries.tokenizer import trained_tokenizer
from rwkd_lightning.systems.summaries.validation import TokenLikelihood
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.training.optim import adamw, linear_schedule
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.model_files import find, fingerprint, size
from rwkd_lightning.weighting import LabelsOnly

LENGTHS = ("data.document_length", "data.summary_length")
TRAINED = (
    *LENGTHS,
    *(
        f"pair.teacher.{key}"
        for key in ("model", "epochs", "lr", "batch_size", "warmup", "weight_decay", "smoothing", "seed", "precision")
    ),
    "data.vocabulary",
    "trainer.deterministic",
)
"""Keys of the config that a trained teacher depends on, beside the content of its data and of its model."""
DECODED = (*LENGTHS, "data.eval_batch_size", *(f"data.decoding.{key}" for key in SETTINGS), "trainer.deterministic")
"""Keys that a teacher's summaries depend on, beside the content of the teacher and of the documents."""


def check_teacher(config: DictConfig) -> None:
    """Raise UserError for settings of the teacher that do not go together."""
    spec = config.pair.teacher
    if spec.path is None and spec.epochs == 0:
        raise UserError(
            "pair.teacher.epochs=0 uses a finished model, and without a pair.teacher.path it is a new one; set "
            "pair.teacher.epochs=8, or give a path"
        )
    if spec.passes > 0 and spec.dropout == 0:
        raise UserError(
            f"pair.teacher.passes={spec.passes} averages passes with dropout, and pair.teacher.dropout=0 has none; set "
            "pair.teacher.passes=0"
        )


def tokenizer_of(config: DictConfig, data: SummaryData, path: str | None, store: Store) -> Any:
    """The tokenizer of a model at ``path``, or where that is None one that is trained on the training split."""
    if path is not None:
        return load_summary_tokenizer(path)
    longest = max(config.data.document_length, config.data.summary_length)
    return trained_tokenizer(data.splits[TRAIN], config.data.vocabulary, longest, store)


def untrained(config: DictConfig, tokenizer: Any) -> Summariser:
    """The teacher before its training."""
    spec = config.pair.teacher
    if spec.path is not None:
        return load_summariser(spec.path)
    return new_summariser(spec.model, tokenizer, max(config.data.document_length, config.data.summary_length))


def teacher_of(config: DictConfig, data: SummaryData, run: Run) -> Teacher:
    """The teacher: trained on the training split, or with ``pair.teacher.epochs=0`` the given model as it is."""
    spec = config.pair.teacher
    if spec.epochs == 0:
        folder = find(spec.path)
        return Teacher(folder, size(folder))
    key = {
        "model": None if spec.path is None else fingerprint(find(spec.path)),
        "data": {name: data.splits[name].fingerprint() for name in (TRAIN, META)},
        "settings": keyed(config, TRAINED),
    }
    settings = only(config, (*TRAINED, "pair.teacher.path"))
    needed = 4 * 10**8 if spec.path is None else 10 * size(find(spec.path))
    return train_once(
        run,
        "summary_teacher",
        key,
        lambda folder, fit: train(settings, data, run.store, folder, fit),
        about=f"{data.name}: {spec.path or 'a new model'}",
        needed_bytes=needed,
    )


def train(settings: DictConfig, data: SummaryData, store: Store, folder: Path, fit: Fit) -> None:
    """Train the teacher with cross-entropy, smoothed, and write it to ``folder``."""
    spec = settings.pair.teacher
    tokenizer = tokenizer_of(settings, data, spec.path, store)
    lightning.seed_everything(spec.seed, workers=True, verbose=False)
    teacher = untrained(settings, tokenizer)
    loaders = loaders_of(settings, teacher, tokenizer, data.splits, batch_size=spec.batch_size, seed=spec.seed)
    module = DistillationModule(
        teacher,
        [TokenCrossEntropy(spec.smoothing)],
        LabelsOnly(),
        functools.partial(adamw, lr=spec.lr, weight_decay=spec.weight_decay),
        loaders.train_size,
        schedule=functools.partial(linear_schedule, warmup=spec.warmup),
        validation=TokenLikelihood(),
    )
    fit(module, loaders, {"max_epochs": spec.epochs, "max_steps": -1, "precision": spec.precision})
    save(folder, teacher, tokenizer)


def load(teacher: Teacher, dropout: float | None = None) -> tuple[Summariser, Any]:
    """The teacher's network and its tokenizer."""
    return load_summariser(str(teacher.folder), dropout=dropout), load_summary_tokenizer(str(teacher.folder))


def loaders_of(
    settings: DictConfig, summariser: Summariser, tokenizer: Any, splits: dict[str, Split], **more: Any
) -> SummaryDataModule:
    """Splits in a model's own tokens; ``more`` for the data module."""
    return SummaryDataModule(
        splits,
        tokenizer,
        start_of(summariser, tokenizer),
        document_length=settings.data.document_length,
        summary_length=settings.data.summary_length,
        **more,
    )


def summaries_of(
    config: DictConfig, teacher: Teacher, documents: Sequence[str], store: Store, device: torch.device, about: str
) -> list[str]:
    """What the teacher writes of each document, from the cache or written now."""
    key = {
        "teacher": fingerprint(teacher.folder),
        "documents": digest(list(documents)),
        "settings": keyed(config, DECODED),
    }

    def build(folder: Path) -> None:
        settings = only(config, DECODED)
        summariser, tokenizer = load(teacher)
        rows = Split(list(documents), [""] * len(documents), [""] * len(documents), list(range(len(documents))))
        loaders = loaders_of(
            settings, summariser, tokenizer, {TRAIN: rows}, eval_batch_size=settings.data.eval_batch_size
        )
        how = generation_config(summariser, tokenizer, settings.data.decoding, settings.data.summary_length)
        loader = loaders.dataloader(TRAIN)
        found = written(summariser, tokenizer, loader, len(rows), how, device, f"teacher summaries: {about}")
        (folder / "summaries.json").write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")

    folder = store.get("teacher_summaries", key, build, about=f"summaries: {about}")
    found: list[str] = json.loads((folder / "summaries.json").read_text(encoding="utf-8"))
    return found
