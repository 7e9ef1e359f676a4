"""The late-interaction teacher: trained once, and its scores of every document for every query, kept."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import lightning
import numpy as np
import torch
from omegaconf import DictConfig
from safetensors.torch import save_file
from torch import Tensor

from rwkd_lightning.cache.store import Store, digest, tensors
from rwkd_lightning.run.identity import keyed, only
from rwkd_lightning.run.system import Run, Teacher
from rwkd_lightning.run.train_once import Fit, train_once
from rwkd_lightning.systems.retrieval.collection import META, TRAIN, Collection
from rwkd_lightning.systems.retrieval.datamodule import RetrievalDataModule
from rwkd_lightning.systems.retrieval.encoder import load_transformer
from rwkd_lightning.systems.retrieval.late_folder import is_teacher, read_teacher, teacher_digest, write_teacher
from rwkd_lightning.systems.retrieval.late_interaction import LateInteraction, begin_at_main_directions
from rwkd_lightning.systems.retrieval.scoring import late_scores, mean_vectors
from rwkd_lightning.systems.retrieval.terms import Contrastive
from rwkd_lightning.systems.retrieval.tokens import Texts
from rwkd_lightning.systems.text.models.loading import load_tokenizer
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.training.optim import adamw, linear_schedule
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.model_files import find, fingerprint, size
from rwkd_lightning.weighting import LabelsOnly

LENGTHS = ("data.query_length", "data.document_length")
TEACHER = (
    *LENGTHS,
    "pair.teacher.width",
    "pair.teacher.epochs",
    "pair.teacher.lr",
    "pair.teacher.batch_size",
    "pair.teacher.warmup",
    "pair.teacher.weight_decay",
    "pair.teacher.seed",
    "pair.teacher.precision",
    "trainer.deterministic",
)
SCORES = (*LENGTHS, "data.eval_batch_size", "pair.teacher.precision", "trainer.deterministic")
TABLE = 200_000_000
"""Scores that are kept at most, 4 bytes each."""


def check_table(collection: Collection) -> None:
    """Raise UserError for a collection whose scores would not fit."""
    queries = sum(len(split) for split in collection.splits.values())
    if queries * len(collection.ids) > TABLE:
        raise UserError(
            f"{collection.name} has {queries:,} queries and {len(collection.ids):,} documents, and of the teacher's "
            f"scores of all pairs {TABLE:,} can be kept; give fewer queries or documents"
        )


def teacher_of(config: DictConfig, collection: Collection, negatives: Mapping[str, np.ndarray], run: Run) -> Teacher:
    """The teacher: trained on the training split now or before; with ``pair.teacher.epochs=0`` a folder of one."""
    spec = config.pair.teacher
    folder = find(spec.path)
    if spec.epochs == 0 and is_teacher(folder):
        return Teacher(folder, size(folder))
    key = {
        "model": fingerprint(folder),
        "documents": collection.fingerprint(),
        "queries": {name: collection.splits[name].fingerprint() for name in (TRAIN, META)},
        "negatives": {name: digest(places.tolist()) for name, places in negatives.items()},
        "settings": keyed(config, TEACHER),
    }
    settings = only(config, TEACHER)
    return train_once(
        run,
        "late_interaction",
        key,
        lambda part, fit: train(spec.path, settings, collection, negatives, run.device, part, fit),
        about=f"{collection.name}: {spec.path}",
        needed_bytes=10 * size(folder),
    )


def train(
    path: str,
    settings: DictConfig,
    collection: Collection,
    negatives: Mapping[str, np.ndarray],
    device: torch.device,
    folder: Path,
    fit: Fit,
) -> None:
    """Fine-tune the model at ``path`` with the documents of each batch as candidates, and write it to ``folder``."""
    spec = settings.pair.teacher
    lightning.seed_everything(spec.seed, workers=True, verbose=False)
    tokenizer = load_tokenizer(path)
    teacher = LateInteraction(load_transformer(path), spec.width)
    loaders = RetrievalDataModule(
        collection,
        tokenizer,
        query_length=settings.data.query_length,
        document_length=settings.data.document_length,
        batch_size=spec.batch_size,
        seed=spec.seed,
        negatives=negatives,
        each=1,
    )
    teacher.eval()
    begin_at_main_directions(teacher, [loaders.meta_stream[step] for step in range(8)])
    teacher.train()
    if spec.epochs:
        module = DistillationModule(
            teacher,
            [Contrastive()],
            LabelsOnly(),
            functools.partial(adamw, lr=spec.lr, weight_decay=spec.weight_decay),
            loaders.train_size,
            schedule=functools.partial(linear_schedule, warmup=spec.warmup),
            metrics={},
        )
        fit(module, loaders, {"max_epochs": spec.epochs, "max_steps": -1, "precision": spec.precision})
    write_teacher(folder, teacher, tokenizer)


def scores(
    config: DictConfig, teacher: Teacher, collection: Collection, store: Store, device: torch.device
) -> dict[str, Tensor]:
    """Its scores ``(Q, D)`` of every document for the queries of each split, from the cache or computed now."""
    key = {
        "teacher": teacher_digest(teacher.folder),
        "documents": collection.fingerprint(),
        "queries": {name: queries.fingerprint() for name, queries in collection.splits.items()},
        "settings": keyed(config, SCORES),
    }

    def build(folder: Path) -> None:
        settings = only(config, SCORES)
        network, tokenizer = read_teacher(teacher.folder)
        loaders = RetrievalDataModule(
            collection,
            tokenizer,
            query_length=settings.data.query_length,
            document_length=settings.data.document_length,
        )
        batch, precision = settings.data.eval_batch_size, str(settings.pair.teacher.precision)
        found = {
            name: late_scores(network, queries, loaders.documents, batch, device, f"teacher scores: {name}", precision)
            for name, queries in loaders.queries.items()
        }
        save_file(found, folder / "scores.safetensors")

    kept = store.get("late_scores", key, build, about=collection.name)
    shapes = {name: (len(queries), len(collection.ids)) for name, queries in collection.splits.items()}
    return tensors(kept / "scores.safetensors", shapes)


def means(
    config: DictConfig, teacher: Teacher, collection: Collection, store: Store, device: torch.device
) -> dict[str, Tensor]:
    """The means of its token vectors of each training query ``(Q, d)`` and of each document ``(D, d)``, from the cache
    or computed now.
    """
    key = {
        "teacher": teacher_digest(teacher.folder),
        "documents": collection.fingerprint(),
        "queries": collection.splits[TRAIN].fingerprint(),
        "settings": keyed(config, SCORES),
    }

    def build(folder: Path) -> None:
        settings = only(config, SCORES)
        network, tokenizer = read_teacher(teacher.folder)
        lengths = {what: settings.data[f"{what}_length"] for what in ("query", "document")}
        texts = {"query": collection.splits[TRAIN].texts, "document": collection.texts}
        size, precision = settings.data.eval_batch_size, str(settings.pair.teacher.precision)
        found = {}
        for what, some in texts.items():
            read = Texts(some, tokenizer, lengths[what], what)
            found[what] = mean_vectors(network, read, size, device, f"teacher vectors: {what}", precision)
        save_file(found, folder / "means.safetensors")

    kept = store.get("late_means", key, build, about=collection.name)
    shapes = {"query": (len(collection.splits[TRAIN]), None), "document": (len(collection.ids), None)}
    return tensors(kept / "means.safetensors", shapes)
