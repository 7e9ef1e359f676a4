"""Stage 4: scores of student and teacher, what they cost, and predictions for splits whose labels are hidden."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from rwkd_lightning.run.fit import Fitted
from rwkd_lightning.run.predict import predict, speed_ratio
from rwkd_lightning.systems.text import teacher as stages
from rwkd_lightning.systems.text.data.datamodule import DistillationDataModule
from rwkd_lightning.systems.text.data.leaderboard import write_predictions
from rwkd_lightning.systems.text.data.task import column
from rwkd_lightning.systems.text.metrics import score
from rwkd_lightning.systems.text.models import Classifier
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.utils.model_files import size

log = logging.getLogger(__name__)


def evaluate(config: DictConfig, loaders: DistillationDataModule, student: Classifier, teacher: stages.Teacher,
             logits: Mapping[str, torch.Tensor], fitted: Fitted, module: DistillationModule,
             device: torch.device) -> dict[str, Any]:
    """Stage 4: scores of both on the evaluation splits with labels, the student's on the meta split, and what it cost."""
    task = loaders.task
    scores: dict[str, dict[str, Any]] = {"student": {}, "teacher": {}}
    for split in task.evaluation_splits:
        labels = loaders.encoded(split).labels
        predicted = predict(student, loaders.evaluation_dataloader(split), len(labels), device, f"student logits: {split}")
        scores["student"][split] = score(task, predicted, labels)
        scores["teacher"][split] = score(task, logits[split], labels)
    held_out = loaders.rows("meta").labels
    predicted = predict(student, loaders.dataloader("meta"), len(held_out), device, "student logits: meta")
    network = stages.load(teacher, loaders.data)
    theirs = stages.loaders_of(config, teacher, loaders.data, loaders.store, seed=config.seed,
                               meta_batch_size=config.meta.batch_size).meta_stream  # the same rows, its own tokens
    batches = [(theirs[step], loaders.meta_stream[step]) for step in range(5)]
    steps = max(1, fitted.steps)
    cost = {"train_seconds": fitted.train_seconds, "seconds_per_step": fitted.train_seconds / steps, "steps": fitted.steps,
            "meta_steps": int(module.meta.taken) if module.meta is not None else 0,
            "peak_memory_mib": fitted.peak_memory_mib, "student_parameters": count(student),
            "teacher_parameters": count(network), "teacher_seconds": teacher.train_seconds,
            "teacher_bytes": size(teacher.folder), "speed_up": speed_ratio(network, student, batches, device)}
    return {"task": task.name, "weighting": config.weighting_name, "seed": config.seed, "metric": task.monitor,
            "checkpoint": fitted.checkpoint, "meta": {task.monitor: score(task, predicted, held_out)[task.monitor]}, **scores,
            "cost": cost}


def count(model: torch.nn.Module) -> int:
    """Parameters of a model."""
    return sum(p.numel() for p in model.parameters())


def predict_hidden(folder: Path, loaders: DistillationDataModule, student: Classifier, device: torch.device) -> None:
    """``predictions/*.tsv`` of the student, for GLUE's site."""
    for split in loaders.task.hidden_splits:
        rows = loaders.data.splits[split]
        logits = predict(student, loaders.dataloader(split), len(rows), device, f"student logits: {split}")
        log.info("wrote %s", write_predictions(folder / "predictions", loaders.task, split, column(rows, "idx"), logits))
