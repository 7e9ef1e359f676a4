"""Stage 1 and 2: the teacher, fine-tuned once, and its logits, computed once; both shared by all runs that need them."""

from __future__ import annotations

import functools
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from omegaconf import DictConfig
from safetensors.torch import save_file
from torch import Tensor

from rwkd_lightning.cache.store import Store, tensors
from rwkd_lightning.run.fit import Fitted, fit
from rwkd_lightning.run.identity import LOGITS, TEACHER, keyed, only
from rwkd_lightning.run.outputs import try_writing
from rwkd_lightning.run.predict import predict
from rwkd_lightning.run.processes import alone
from rwkd_lightning.run.signals import Stop
from rwkd_lightning.systems.text.data.datamodule import DistillationDataModule
from rwkd_lightning.systems.text.data.task import TaskData
from rwkd_lightning.systems.text.models import Classifier, check_inputs, find, fingerprint, load_classifier, load_tokenizer
from rwkd_lightning.terms import CrossEntropy, SquaredError
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.training.optim import adamw, linear_schedule
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.model_files import size
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
    path = config.pair.teacher.path
    key = key_of(config, data)
    if not store.has("teacher", key):
        store.check_writable(10 * size(find(path)))  # the teacher, and three checkpoints with two moments a weight
    taken: list[float] = []

    def build(folder: Path) -> None:
        log.info("fine-tuning the teacher (kept in %s)", store.path("teacher", key))
        part = store.path("teacher", key).with_suffix(".part")  # an unfinished training is resumed from here

        def fitted(module: DistillationModule, loaders: DistillationDataModule, options: dict[str, Any]) -> Fitted:
            teacher: Any = module.student
            try_writing(folder, teacher, loaders.tokenizer, f"pair.teacher.path={path}")
            return fit(module, loaders, part, {**alone(trainer_options), **options}, description="teacher", stop=stop,
                       intervals=config.checkpoint)

        took, teacher, tokenizer = train(path, only(config, TEACHER), data, store, fitted)
        taken.append(took.train_seconds)
        teacher.network.save_pretrained(folder)  # type: ignore[operator]
        tokenizer.save_pretrained(folder)
        shutil.rmtree(part, ignore_errors=True)

    folder = store.get("teacher", key, build, about=f"{data.task.name}: {path}")
    return Teacher(folder, taken[0] if taken else None)


def key_of(config: DictConfig, data: TaskData) -> dict[str, Any]:
    """What the bytes of a fine-tuned teacher depend on."""
    return {"task": data.task.name, "labels": data.task.label_names, "model": fingerprint(find(config.pair.teacher.path)),
            "data": data.fingerprint("teacher_train"), "settings": keyed(config, TEACHER)}


def train(path: str, settings: DictConfig, data: TaskData, store: Store,
          fit: Callable[[DistillationModule, DistillationDataModule, dict[str, Any]], Fitted]) -> tuple[Fitted, Classifier, Any]:
    """Fine-tune the model at ``path``; returns what it took, the teacher and its tokenizer.

    Args:
        settings: the keys of `identity.TEACHER`; nothing else of a run's config reaches the teacher.
        fit: runs the training: module, loaders, and options for lightning.Trainer.
    """
    spec = settings.pair.teacher
    lightning.seed_everything(spec.seed, workers=True, verbose=False)
    tokenizer = load_tokenizer(path)
    teacher = load_classifier(path, data.task, new_head=spec.new_head)
    check_inputs(teacher, tokenizer, settings.data.max_length, path)
    loaders = DistillationDataModule(data, tokenizer, max_length=settings.data.max_length, batch_size=spec.batch_size,
                                     seed=spec.seed, train_split="teacher_train", store=store)
    module = DistillationModule(
        teacher, [SquaredError() if data.task.is_regression else CrossEntropy()], LabelsOnly(),
        functools.partial(adamw, lr=spec.lr, weight_decay=spec.weight_decay),
        loaders.train_size, schedule=functools.partial(linear_schedule, warmup=spec.warmup))
    fitted = fit(module, loaders, {"max_epochs": spec.epochs, "max_steps": -1, "precision": spec.precision})
    return fitted, teacher, tokenizer


def load(teacher: Teacher, data: TaskData) -> Classifier:
    """The teacher's network, its outputs in the order of the task's labels."""
    return load_classifier(str(teacher.folder), data.task, trained=True, labels=teacher.labels)


def loaders_of(settings: DictConfig, teacher: Teacher, data: TaskData, store: Store | None,
               **more: Any) -> DistillationDataModule:
    """The splits in the teacher's own tokens; ``more`` for the data module."""
    return DistillationDataModule(
        data, load_tokenizer(str(teacher.folder)), max_length=settings.data.max_length,
        eval_batch_size=settings.data.eval_batch_size, store=store, **more)


def logits(config: DictConfig, teacher: Teacher, data: TaskData, store: Store, device: torch.device,
           splits: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Its logits ``(N, C)`` for these splits (None: train, meta and those that are scored): from the cache, or computed now."""
    splits = splits or ["train", "meta", *data.task.evaluation_splits]
    key = logits_key(config, teacher, data, splits)

    def build(folder: Path) -> None:
        computed = compute_logits(only(config, LOGITS), teacher, data, store, device, splits)
        save_file(computed, folder / "logits.safetensors")

    kept = store.get("logits", key, build, about=f"{data.task.name}: {config.pair.teacher.path}")
    return tensors(kept / "logits.safetensors", {split: (len(data.splits[split]), data.task.num_labels) for split in splits})


def logits_key(config: DictConfig, teacher: Teacher, data: TaskData, splits: Sequence[str]) -> dict[str, Any]:
    """What the bytes of a teacher's logits depend on."""
    return {"teacher": fingerprint(teacher.folder), "labels": data.task.label_names, "settings": keyed(config, LOGITS),
            "data": {split: data.fingerprint(split) for split in splits}}


def compute_logits(settings: DictConfig, teacher: Teacher, data: TaskData, store: Store | None, device: torch.device,
                   splits: Sequence[str]) -> dict[str, Tensor]:
    """The teacher's logits ``(N, C)`` of each split; ``settings``: the keys of `identity.LOGITS`."""
    network, loaders = load(teacher, data), loaders_of(settings, teacher, data, store)
    return {split: predict(network, loaders.dataloader(split), len(data.splits[split]), device, f"teacher logits: {split}",
                           str(settings.pair.teacher.precision))
            for split in splits}
