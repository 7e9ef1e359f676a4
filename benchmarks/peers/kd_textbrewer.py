"""TextBrewer's rows of ``kd.py``: its distillers with their own loop.

Its examples pad all rows to the maximum length, shuffle them, and train with ``GeneralDistiller``. Student and teacher
get batches of their own, as it documents for models with different vocabularies. Its cache (``is_caching_logits``)
belongs to ``BasicDistiller``: the batches of one pass with the teacher's logits, in memory, and shuffled for each
epoch.
"""

from __future__ import annotations

import tempfile
import warnings
from typing import Any

import lightning
import torch
from kd_batches import Batch, of_similar_length, shuffled
from kd_job import ALPHA, BATCH, CLIP, DECAY, RATE, TEMPERATURE, WARMUP, Job, check
from torch import Tensor, nn
from torch.utils.data import DataLoader

from rwkd_lightning.training.optim import adamw, linear_schedule

with warnings.catch_warnings():
    warnings.simplefilter("ignore", SyntaxWarning)  # it compares strings with "is not"
    from textbrewer import BasicDistiller, DistillationConfig, GeneralDistiller, TrainingConfig


class PicksItsBatch(nn.Module):
    """The teacher: where the cache is filled it is given both batches, in training its own."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, teacher: Batch | None = None, student: Batch | None = None, **own: Tensor) -> Any:
        return self.network(**(own if teacher is None else teacher))


def of_teacher(batch: Any, outputs: Any) -> dict[str, Tensor]:
    """What TextBrewer calls an adaptor."""
    return {"logits": outputs.logits}


def of_student(batch: Any, outputs: Any) -> dict[str, Tensor]:
    """The network has computed the cross-entropy of the labels in its batch."""
    return {"logits": outputs.logits, "losses": outputs.loss}


def train(job: Job, setting: str) -> float:
    """Train the job's student; the difference of the gradients that ``check`` found."""
    cached, ours = setting in ("cache", "all"), setting in ("loader", "all")
    teacher = job.teacher()
    lightning.seed_everything(job.seed, verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        with job.clock.running():
            rows, batches = of_similar_length(job, teacher) if ours else (shuffled(job, teacher, pad_to_max=True), None)

            def collate(samples: list[Any]) -> dict[str, Batch]:
                batch = rows.collate([tokens for tokens, _ in samples])
                batch["student"]["labels"] = torch.tensor([label for _, label in samples])
                return batch

            loader = (
                DataLoader(rows, batch_sampler=batches, collate_fn=collate)
                if batches is not None
                else DataLoader(rows, BATCH, shuffle=True, collate_fn=collate)
            )
            # its KD loss is the cross-entropy with the teacher, whose gradient is that of KL, without the factor T²
            settings = DistillationConfig(
                temperature=TEMPERATURE,
                kd_loss_weight=ALPHA * TEMPERATURE**2,
                hard_label_weight=1 - ALPHA,
                is_caching_logits=cached,
            )
            distiller = (BasicDistiller if cached else GeneralDistiller)(
                TrainingConfig(device="cpu", output_dir=folder),
                settings,
                PicksItsBatch(teacher.network),
                job.student.network,
                of_teacher,
                of_student,
            )
            optimizer = adamw(job.student.network, RATE, DECAY)
        batch = collate([rows[row] for row in range(BATCH)])

        def loss() -> Tensor:
            if not cached:
                return distiller.train_on_batch(batch, {})[0]
            distiller.cache_logits(batch, {}, None)
            return distiller.train_on_batch(distiller.logits_cache.pop(), {})[0]

        teacher.network.eval()
        difference = check(job, teacher, list(range(BATCH)), loss)
        with job.clock.running(), distiller:
            distiller.train(
                optimizer,
                loader,
                job.epochs,
                scheduler_class=linear_schedule,
                scheduler_args={"total_steps": job.steps, "warmup": WARMUP},
                max_grad_norm=CLIP,
            )
    return difference
