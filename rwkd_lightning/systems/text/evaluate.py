"""Stage 4: scores of student and teacher, what they cost, and predictions for splits whose labels are hidden."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from rwkd_lightning.data.batching import Batch
from rwkd_lightning.run.predict import predict
from rwkd_lightning.run.system import Evaluation
from rwkd_lightning.systems.text import teacher as stages
from rwkd_lightning.systems.text.data.datamodule import DistillationDataModule
from rwkd_lightning.systems.text.data.leaderboard import write_predictions
from rwkd_lightning.systems.text.data.task import column
from rwkd_lightning.systems.text.metrics import score
from rwkd_lightning.systems.text.models import Classifier
from rwkd_lightning.systems.text.teacher_outputs import Ensemble, TeacherOutputs, paths_of, together

log = logging.getLogger(__name__)
TIMED = 5
"""Batches with which the speed at inference is measured."""


def evaluate(
    config: DictConfig,
    loaders: DistillationDataModule,
    student: Classifier,
    taught: TeacherOutputs,
    device: torch.device,
) -> Evaluation:
    """The scores of both on the evaluation splits with labels, and the student's on the meta split.

    The teacher's are those of the rows of which it says something; of several teachers each has its own besides.
    """
    task = loaders.task
    scores: dict[str, dict[str, Any]] = {"student": {}, "teacher": {}}
    rows = {}
    for split in task.evaluation_splits:
        labels = loaders.encoded(split).labels
        predicted = predict(
            student, loaders.evaluation_dataloader(split), len(labels), device, f"student logits: {split}"
        )
        scores["student"][split] = score(task, predicted, labels)
        idx = torch.from_numpy(column(loaders.data.splits[split], "idx"))
        rows[split] = {"idx": idx, "label": labels, "output": predicted}
        known = taught.known.get(split, torch.ones(len(labels), dtype=torch.bool))
        if bool(known.any()):
            scores["teacher"][split] = score(task, taught.logits[split][known], labels[known])
    held_out = loaders.rows("meta").labels
    predicted = predict(student, loaders.dataloader("meta"), len(held_out), device, "student logits: meta")
    meta = {task.monitor: score(task, predicted, held_out)[task.monitor]}
    found = Evaluation(task.name, task.monitor, meta, scores, *timed(config, loaders, taught), rows=rows)
    if taught.members:
        found.more["teachers"] = [
            {
                "path": path,
                **{split: score(task, one[split], loaders.encoded(split).labels) for split in scores["student"]},
            }
            for path, one in zip(paths_of(config), taught.members, strict=True)
        ]
    return found


def timed(
    config: DictConfig, loaders: DistillationDataModule, taught: TeacherOutputs
) -> tuple[nn.Module | None, list[tuple[Batch, Batch]]]:
    """The teacher's network, and batches as it and as the student read the same rows; nothing without a model."""
    networks, streams = [], []
    for teacher in taught.models:
        networks.append(stages.load(teacher, loaders.data))
        streams.append(
            stages.loaders_of(
                config, teacher, loaders.data, loaders.store, seed=config.seed, meta_batch_size=config.meta.batch_size
            ).meta_stream
        )
    if not networks:
        return None, []
    if len(networks) == 1:
        return networks[0], [(streams[0][step], loaders.meta_stream[step]) for step in range(TIMED)]
    together_at = [together([stream[step] for stream in streams]) for step in range(TIMED)]
    return Ensemble(networks), [(together_at[step], loaders.meta_stream[step]) for step in range(TIMED)]


def predict_hidden(folder: Path, loaders: DistillationDataModule, student: Classifier, device: torch.device) -> None:
    """``predictions/*.tsv`` of the student, for GLUE's site."""
    for split in loaders.task.hidden_splits:
        rows = loaders.data.splits[split]
        logits = predict(student, loaders.dataloader(split), len(rows), device, f"student logits: {split}")
        log.info(
            "wrote %s", write_predictions(folder / "predictions", loaders.task, split, column(rows, "idx"), logits)
        )
