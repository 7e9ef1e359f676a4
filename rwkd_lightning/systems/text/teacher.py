"""Stages 1 and 2: the teacher, fine-tuned once, and its logits, computed once; both shared by all runs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from omegaconf import DictConfig
from safetensors.torch import save_file
from torch import Tensor

from rwkd_lightning.cache.store import Store, tensors
from rwkd_lightning.run.identity import keyed, only
from rwkd_lightning.run.predict import predict
from rwkd_lightning.run.system import Run, Teacher
from rwkd_lightning.run.train_once import Fit, train_once
from rwkd_lightning.systems.text.data.datamodule import DistillationDataModule
from rwkd_lightning.systems.text.data.task import TaskData, TaskSpec
from rwkd_lightning.systems.text.export import save, try_writing
from rwkd_lightning.systems.text.models import (
    Classifier,
    check_inputs,
    find,
    fingerprint,
    load_classifier,
    load_tokenizer,
)
from rwkd_lightning.terms import BinaryCrossEntropy, CrossEntropy, SquaredError, Term
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.training.optim import adamw, linear_schedule
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.model_files import size
from rwkd_lightning.weighting import LabelsOnly

TEACHER = (
    "data.max_length",
    "data.overflow",
    "data.stride",
    *(
        f"pair.teacher.{key}"
        for key in ("epochs", "lr", "batch_size", "warmup", "weight_decay", "seed", "precision", "new_head")
    ),
    "trainer.deterministic",
)
"""Keys of the config that a fine-tuned teacher depends on, beside the content of its data and of the model it starts
from.
"""
LOGITS = (
    "data.max_length",
    "data.overflow",
    "data.stride",
    "data.eval_batch_size",
    "pair.teacher.precision",
    "pair.teacher.labels",
    "trainer.deterministic",
)
"""Keys that a teacher's outputs depend on, beside the content of the teacher and of the data. A batch's padding moves
the last bits.
"""


def teacher_of(config: DictConfig, data: TaskData, run: Run) -> Teacher:
    """The teacher: fine-tuned on this task, or with ``pair.teacher.epochs=0`` the given model as it is."""
    spec = config.pair.teacher
    if spec.epochs < 0:
        raise UserError(
            f"pair.teacher.epochs is {spec.epochs}; give 1 or more, or 0 to use a fine-tuned teacher as it is"
        )
    if spec.epochs > 0:
        if spec.labels is not None:
            raise UserError(
                f"pair.teacher.labels={list(spec.labels)} says what the outputs of a finished teacher mean; this one "
                "is fine-tuned first (or set pair.teacher.epochs=0)"
            )
        return fine_tuned(config, data, run)
    if spec.new_head:
        raise UserError(
            "pair.teacher.new_head=true puts an untrained head on the teacher, and pair.teacher.epochs=0 leaves it "
            "so; set pair.teacher.epochs=3"
        )
    folder = find(spec.path)
    teacher = Teacher(folder, size(folder), labels=list(spec.labels) if spec.labels is not None else None)
    check_inputs(load(teacher, data), load_tokenizer(str(folder)), config.data.max_length, spec.path)
    return teacher


def fine_tuned(config: DictConfig, data: TaskData, run: Run) -> Teacher:
    """The teacher for this task: from the cache, or fine-tuned on ``teacher_train`` with cross-entropy."""
    path, settings = config.pair.teacher.path, only(config, TEACHER)
    return train_once(
        run,
        "teacher",
        key_of(config, data),
        lambda folder, fit: train(path, settings, data, run.store, folder, fit),
        about=f"{data.task.name}: {path}",
        needed_bytes=10 * size(find(path)),
    )  # three checkpoints with two moments a weight


def key_of(config: DictConfig, data: TaskData) -> dict[str, Any]:
    """Everything that the bytes of a fine-tuned teacher depend on."""
    return {
        "task": data.task.name,
        "labels": data.task.label_names,
        "model": fingerprint(find(config.pair.teacher.path)),
        "data": data.fingerprint("teacher_train"),
        "settings": keyed(config, TEACHER),
    }


def train(path: str, settings: DictConfig, data: TaskData, store: Store, folder: Path, fit: Fit) -> None:
    """Fine-tune the model at ``path`` and write it to ``folder``.

    Args:
        settings: the keys of ``TEACHER``; nothing else of a run's config reaches the teacher.
    """
    spec = settings.pair.teacher
    lightning.seed_everything(spec.seed, workers=True, verbose=False)
    tokenizer = load_tokenizer(path)
    teacher = load_classifier(path, data.task, new_head=spec.new_head)
    check_inputs(teacher, tokenizer, settings.data.max_length, path)
    try_writing(folder, teacher, tokenizer, f"pair.teacher.path={path}")
    loaders = DistillationDataModule(
        data,
        tokenizer,
        max_length=settings.data.max_length,
        overflow=settings.data.overflow,
        stride=settings.data.stride,
        batch_size=spec.batch_size,
        seed=spec.seed,
        train_split="teacher_train",
        store=store,
    )
    module = DistillationModule(
        teacher,
        [own_term(data.task)],
        LabelsOnly(),
        functools.partial(adamw, lr=spec.lr, weight_decay=spec.weight_decay),
        loaders.train_size,
        schedule=functools.partial(linear_schedule, warmup=spec.warmup),
    )
    fit(module, loaders, {"max_epochs": spec.epochs, "max_steps": -1, "precision": spec.precision})
    save(folder, teacher, tokenizer)


def own_term(task: TaskSpec) -> Term:
    """The loss by which a teacher is fine-tuned."""
    if task.is_multilabel:
        return BinaryCrossEntropy()
    return SquaredError() if task.is_regression else CrossEntropy()


def load(teacher: Teacher, data: TaskData) -> Classifier:
    """The teacher's network, its outputs in the order of the task's labels."""
    return load_classifier(str(teacher.folder), data.task, trained=True, labels=teacher.labels)


def loaders_of(
    settings: DictConfig, teacher: Teacher, data: TaskData, store: Store | None, **more: Any
) -> DistillationDataModule:
    """The splits in the teacher's own tokens; ``more`` for the data module."""
    return DistillationDataModule(
        data,
        load_tokenizer(str(teacher.folder)),
        max_length=settings.data.max_length,
        overflow=settings.data.overflow,
        stride=settings.data.stride,
        eval_batch_size=settings.data.eval_batch_size,
        store=store,
        **more,
    )


def logits(
    config: DictConfig,
    teacher: Teacher,
    data: TaskData,
    store: Store,
    device: torch.device,
    splits: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """Its logits ``(N, C)`` for these splits (None: train, meta and those that are scored): from the cache, or computed
    now.
    """
    splits = splits or ["train", "meta", *data.task.evaluation_splits]
    key = logits_key(config, teacher, data, splits)

    def build(folder: Path) -> None:
        computed = compute_logits(only(config, LOGITS), teacher, data, store, device, splits)
        save_file(computed, folder / "logits.safetensors")

    kept = store.get("logits", key, build, about=f"{data.task.name}: {config.pair.teacher.path}")
    return tensors(
        kept / "logits.safetensors", {split: (len(data.splits[split]), data.task.num_labels) for split in splits}
    )


def logits_key(config: DictConfig, teacher: Teacher, data: TaskData, splits: Sequence[str]) -> dict[str, Any]:
    """Everything that the bytes of a teacher's logits depend on."""
    return {
        "teacher": fingerprint(teacher.folder),
        "labels": data.task.label_names,
        "settings": keyed(config, LOGITS),
        "data": {split: data.fingerprint(split) for split in splits},
    }


def compute_logits(
    settings: DictConfig,
    teacher: Teacher,
    data: TaskData,
    store: Store | None,
    device: torch.device,
    splits: Sequence[str],
) -> dict[str, Tensor]:
    """The teacher's logits ``(N, C)`` of each split; ``settings``: the keys of `identity.LOGITS`."""
    network, loaders = load(teacher, data), loaders_of(settings, teacher, data, store)
    return {
        split: predict(
            network,
            loaders.dataloader(split),
            len(data.splits[split]),
            device,
            f"teacher logits: {split}",
            str(settings.pair.teacher.precision),
        )
        for split in splits
    }
