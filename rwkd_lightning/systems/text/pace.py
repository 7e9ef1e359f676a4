"""How long a run will take on this machine, from a step of each model, before it starts."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from rwkd_lightning.run.system import Run
from rwkd_lightning.systems.text import teacher as stages
from rwkd_lightning.systems.text.data.overflow import windows
from rwkd_lightning.systems.text.data.task import TaskData
from rwkd_lightning.systems.text.models import Classifier, load_classifier, load_tokenizer
from rwkd_lightning.systems.text.models.probing import probe_ids
from rwkd_lightning.systems.text.teacher_outputs import each_of
from rwkd_lightning.utils.bars import spoken

log = logging.getLogger(__name__)

SAMPLED = 512
"""Texts whose tokens are counted."""
LONG = 600
"""Seconds from which on a GPU is recommended to whoever has none."""
Clock = Callable[[nn.Module, Tensor, torch.device, bool], tuple[float, float]]
"""Network, token ids, device and whether in bfloat16 to seconds of a training step and of a forward pass."""


def tell(config: DictConfig, data: TaskData, student: Classifier, tokenizer: Any, run: Run) -> None:
    """Log how long teacher and student will take, in one line."""
    stages_of_run = plan(config, data, student, tokenizer, run, clock)
    total = sum(seconds for _, seconds in stages_of_run)
    parts = ", ".join(f"{name} {spoken(seconds)}" for name, seconds in stages_of_run)
    log.info("to expect on this machine: about %s (%s)", spoken(total), parts)
    if total > LONG and run.device.type == "cpu":
        log.info("with a GPU: trainer.accelerator=gpu trainer.precision=bf16-mixed data.batch_size=64")


def plan(
    config: DictConfig, data: TaskData, student: Classifier, tokenizer: Any, run: Run, clock: Clock
) -> list[tuple[str, float]]:
    """The stages that are still to be done, with their seconds; the student's includes the meta step of the default.

    Nothing is drawn, and no model is changed.
    """
    found = []
    trainer, size = config.trainer, config.data.batch_size * config.trainer.accumulate
    for number, one in enumerate(each_of(config), 1):
        spec, key = one.pair.teacher, stages.key_of(one, data)
        if spec.epochs == 0 or run.store.has("teacher", key):
            continue
        network = load_classifier(spec.path, data.task, new_head=True)
        length, rows = padded(data, "teacher_train", load_tokenizer(spec.path), config, spec.batch_size)
        ids = probe_ids(network.network, length).repeat(rows, 1)
        step, forward = clock(network.network, ids, run.device, str(spec.precision).startswith("bf16"))
        steps = spec.epochs * math.ceil(len(data.splits["teacher_train"]) / spec.batch_size)
        asked = sum(len(data.splits[split]) for split in ("train", "meta", *data.task.evaluation_splits))
        which = "teacher" if number == 1 else f"teacher {number}"
        found.append((which, steps * step + asked / spec.batch_size * forward))
    length, rows = padded(data, "train", tokenizer, config, size)
    ids = probe_ids(student.network, length).repeat(rows, 1)
    step, forward = clock(student.network, ids, run.device, str(trainer.precision).startswith("bf16"))
    steps = math.inf if trainer.max_epochs is None else trainer.max_epochs * math.ceil(len(data.splits["train"]) / size)
    if trainer.max_steps != -1:
        steps = min(steps, trainer.max_steps)
    asked = sum(len(data.splits[split]) for split in ("meta", *data.task.evaluation_splits))
    return [*found, ("student", steps * step + asked / size * forward)]


def padded(data: TaskData, split: str, tokenizer: Any, config: DictConfig, size: int) -> tuple[int, int]:
    """The mean length of a batch of ``size`` texts of the split, in tokens, and the rows that the model reads of it:
    ``size``, or the mean number of windows.
    """
    rows = data.splits[split]
    every = max(1, len(rows) // SAMPLED)
    some = rows.select(range(0, len(rows), every))
    texts: Sequence[Any] = [list(some[name]) for name in data.task.text_columns]
    limit, read = config.data.max_length, 1.0
    if config.data.overflow == "windows":
        lengths = [len(ids) for ids in windows(texts[0], tokenizer, limit, config.data.stride)[0]["input_ids"]]
        read = sum(math.ceil(length / limit) for length in lengths) / len(lengths)
        lengths = [min(length, limit) for length in lengths]
    else:
        lengths = [len(ids) for ids in tokenizer(*texts, truncation=True, max_length=limit)["input_ids"]]
    longest = [max(lengths[start : start + size]) for start in range(0, len(lengths), size)]
    return max(2, round(sum(longest) / len(longest))), max(1, round(read * size))


def clock(network: nn.Module, ids: Tensor, device: torch.device, half: bool) -> tuple[float, float]:
    """Seconds of a step (forward and backward) and of a forward pass: of three, the fastest after the first."""
    training, home = network.training, next(network.parameters()).device
    network.eval().to(device)  # without dropout, which would draw
    ids, took = ids.to(device), [math.inf, math.inf]
    try:
        for turn in range(3):
            for backward in (False, True):
                start = time.perf_counter()
                with torch.set_grad_enabled(backward), torch.autocast(device.type, torch.bfloat16, enabled=half):
                    logits = network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
                if backward:
                    logits.float().sum().backward()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                if turn:
                    took[backward] = min(took[backward], time.perf_counter() - start)
    finally:
        for parameter in network.parameters():
            parameter.grad = None
        network.train(training).to(home)
    return took[True], took[False]
