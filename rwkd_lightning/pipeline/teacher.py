"""Stage 1 and 2: the teacher, fine-tuned once, and its logits, computed once; both shared by all runs that need them."""

from __future__ import annotations

import functools
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from omegaconf import DictConfig
from safetensors.torch import save_file
from torch import Tensor

from rwkd_lightning.data.datamodule import DistillationDataModule
from rwkd_lightning.data.task import TaskData
from rwkd_lightning.errors import UserError
from rwkd_lightning.models import Classifier, check_inputs, find, fingerprint, load_classifier, load_tokenizer
from rwkd_lightning.models.source import size
from rwkd_lightning.module import DistillationModule
from rwkd_lightning.optim import adamw, linear_schedule
from rwkd_lightning.pipeline.artefacts import try_writing
from rwkd_lightning.pipeline.fit import fit
from rwkd_lightning.pipeline.launch import alone
from rwkd_lightning.pipeline.predict import predict
from rwkd_lightning.pipeline.stopping import Stop
from rwkd_lightning.store import Store, tensors
from rwkd_lightning.terms import CrossEntropy, SquaredError
from rwkd_lightning.weighting import LabelsOnly

log = logging.getLogger(__name__)


@dataclass
class Teacher:
    """A fine-tuned teacher: in the cache, or the user's own."""

    folder: Path
    train_seconds: float | None
    """None where it was not trained now."""
    labels: list[str] | None = None
    """What its outputs mean, where the user says so."""


def teacher_of(config: DictConfig, data: TaskData, store: Store, trainer_options: dict[str, Any], stop: Stop) -> Teacher:
    """The teacher: fine-tuned on this task, or with ``pair.teacher.epochs=0`` the given model as it is."""
    spec = config.pair.teacher
    if spec.epochs < 0:
        raise UserError(f"pair.teacher.epochs is {spec.epochs}; give 1 or more, or 0 to use a fine-tuned teacher as it is")
    if spec.epochs > 0:
        if spec.labels is not None:
            raise UserError(f"pair.teacher.labels={list(spec.labels)} says what the outputs of a finished teacher mean; this one "
                            "is fine-tuned first (or set pair.teacher.epochs=0)")
        return fine_tuned(config, data, store, trainer_options, stop)
    if spec.new_head:
        raise UserError("pair.teacher.new_head=true puts an untrained head on the teacher, and pair.teacher.epochs=0 leaves it "
                        "so; set pair.teacher.epochs=3")
    teacher = Teacher(find(spec.path), None, list(spec.labels) if spec.labels is not None else None)
    check_inputs(load(teacher, data), load_tokenizer(str(teacher.folder)), config.data.max_length, spec.path)
    return teacher


def fine_tuned(config: DictConfig, data: TaskData, store: Store, trainer_options: dict[str, Any], stop: Stop) -> Teacher:
    """The teacher for this task: from the cache, or fine-tuned on ``teacher_train`` with cross-entropy."""
    spec = config.pair.teacher
    settings = {n: spec[n] for n in ("epochs", "lr", "batch_size", "seed", "warmup", "weight_decay", "precision", "new_head")}
    source = find(spec.path)
    key = {"task": data.task.name, "model": fingerprint(source),
           "data": data.fingerprint("teacher_train"), "max_length": config.data.max_length, "settings": settings}
    if not store.has("teacher", key):
        store.check_writable(10 * size(source))  # the teacher, and three checkpoints with two moments a weight
    taken: list[float] = []

    def build(folder: Path) -> None:
        log.info("fine-tuning the teacher (kept in %s)", store.path("teacher", key))
        lightning.seed_everything(spec.seed, workers=True, verbose=False)
        tokenizer = load_tokenizer(spec.path)
        teacher = load_classifier(spec.path, data.task, new_head=spec.new_head)
        check_inputs(teacher, tokenizer, config.data.max_length, spec.path)
        try_writing(folder, teacher, tokenizer, f"pair.teacher.path={spec.path}")
        loaders = DistillationDataModule(data, tokenizer, max_length=config.data.max_length, batch_size=spec.batch_size,
                                         seed=spec.seed, train_split="teacher_train", store=store)
        term = SquaredError() if data.task.is_regression else CrossEntropy()
        module = DistillationModule(
            teacher, [term], LabelsOnly(), functools.partial(adamw, lr=spec.lr, weight_decay=spec.weight_decay),
            loaders.train_size, schedule=functools.partial(linear_schedule, warmup=spec.warmup))
        # resumable: the unfinished training lies under a name of its own until the teacher is whole
        part = store.path("teacher", key).with_suffix(".part")
        options = {**alone(trainer_options), "max_epochs": spec.epochs, "max_steps": -1, "precision": spec.precision}
        taken.append(fit(module, loaders, part, options, description="teacher", stop=stop,
                         intervals=config.checkpoint).train_seconds)
        teacher.network.save_pretrained(folder)  # type: ignore[operator]
        tokenizer.save_pretrained(folder)
        shutil.rmtree(part, ignore_errors=True)

    folder = store.get("teacher", key, build, about=f"{data.task.name}: {spec.path}")
    return Teacher(folder, taken[0] if taken else None)


def load(teacher: Teacher, data: TaskData) -> Classifier:
    """The teacher's network, its outputs in the order of the task's labels."""
    return load_classifier(str(teacher.folder), data.task, trained=True, labels=teacher.labels)


def loaders_of(config: DictConfig, teacher: Teacher, data: TaskData, store: Store | None) -> DistillationDataModule:
    """The splits in the teacher's own tokens; the same meta batches as the student's."""
    return DistillationDataModule(
        data, load_tokenizer(str(teacher.folder)), max_length=config.data.max_length, eval_batch_size=config.data.eval_batch_size,
        meta_batch_size=config.meta.batch_size, seed=config.seed, store=store)


def logits(config: DictConfig, teacher: Teacher, data: TaskData, store: Store, device: torch.device,
           splits: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Its logits ``(N, C)`` for these splits (None: train, meta and those that are scored): from the cache, or computed now."""
    splits = splits or ["train", "meta", *data.task.evaluation_splits]
    key = {"teacher": fingerprint(teacher.folder), "labels": teacher.labels, "max_length": config.data.max_length,
           "precision": config.pair.teacher.precision,
           "data": {split: data.fingerprint(split) for split in splits}}

    def build(folder: Path) -> None:
        network, loaders = load(teacher, data), loaders_of(config, teacher, data, store)
        computed = {s: predict(network, loaders.dataloader(s), len(data.splits[s]), device, f"teacher logits: {s}",
                               config.pair.teacher.precision)
                    for s in splits}
        save_file(computed, folder / "logits.safetensors")

    kept = store.get("logits", key, build, about=f"{data.task.name}: {config.pair.teacher.path}")
    return tensors(kept / "logits.safetensors", {split: (len(data.splits[split]), data.task.num_labels) for split in splits})
