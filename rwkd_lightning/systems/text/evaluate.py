"""Stage 4: scores of student and teacher, what they cost, and predictions for splits whose labels are hidden."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from rwkd_lightning.run.predict import predict
from rwkd_lightning.run.system import Evaluation, Teacher
from rwkd_lightning.systems.text import teacher as stages
from rwkd_lightning.systems.text.data.datamodule import DistillationDataModule
from rwkd_lightning.systems.text.data.leaderboard import write_predictions
from rwkd_lightning.systems.text.data.task import column
from rwkd_lightning.systems.text.metrics import score
from rwkd_lightning.systems.text.models import Classifier

log = logging.getLogger(__name__)


def evaluate(
    config: DictConfig,
    loaders: DistillationDataModule,
    student: Classifier,
    teacher: Teacher,
    logits: Mapping[str, torch.Tensor],
    device: torch.device,
) -> Evaluation:
    """The scores of both on the evaluation splits with labels, and the student's on the meta split."""
    task = loaders.task
    scores: dict[str, dict[str, Any]] = {"student": {}, "teacher": {}}
    for split in task.evaluation_splits:
        labels = loaders.encoded(split).labels
        predicted = predict(
            student, loaders.evaluation_dataloader(split), len(labels), device, f"student logits: {split}"
        )
        scores["student"][split] = score(task, predicted, labels)
        scores["teacher"][split] = score(task, logits[split], labels)
    held_out = loaders.rows("meta").labels
    predicted = predict(student, loaders.dataloader("meta"), len(held_out), device, "student logits: meta")
    network = stages.load(teacher, loaders.data)
    theirs = stages.loaders_of(
        config, teacher, loaders.data, loaders.store, seed=config.seed, meta_batch_size=config.meta.batch_size
    ).meta_stream  # the same rows, its own tokens
    batches = [(theirs[step], loaders.meta_stream[step]) for step in range(5)]
    meta = {task.monitor: score(task, predicted, held_out)[task.monitor]}
    return Evaluation(task.name, task.monitor, meta, scores, network, batches)


def predict_hidden(folder: Path, loaders: DistillationDataModule, student: Classifier, device: torch.device) -> None:
    """``predictions/*.tsv`` of the student, for GLUE's site."""
    for split in loaders.task.hidden_splits:
        rows = loaders.data.splits[split]
        logits = predict(student, loaders.dataloader(split), len(rows), device, f"student logits: {split}")
        log.info(
            "wrote %s", write_predictions(folder / "predictions", loaders.task, split, column(rows, "idx"), logits)
        )
