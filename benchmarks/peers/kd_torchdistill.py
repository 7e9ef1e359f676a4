"""torchdistill's rows of ``kd.py``: its distillation box, driven as its examples do.

Its GLUE example shuffles the rows, pads a batch to its longest row, takes the logits by forward hooks, and clips. Its
scoring of each epoch and its copy of the best student are left out. Its cache (``cache_output``) is a file for each
row, written when the teacher first sees it.
"""

from __future__ import annotations

import tempfile
from typing import Any

import lightning
import torch
from kd_batches import Batch, of_similar_length, shuffled
from kd_job import ALPHA, BATCH, CLIP, DECAY, RATE, TEMPERATURE, WARMUP, Job, check
from torch import Tensor, nn
from torch.utils.data import RandomSampler, default_collate
from torchdistill.core.distillation import get_distillation_box
from torchdistill.core.interfaces.registry import register_forward_proc_func
from torchdistill.datasets.registry import register_batch_sampler, register_collate_func
from torchdistill.misc.log import MetricLogger, SmoothedValue
from torchdistill.optim.registry import register_optimizer, register_scheduler

from rwkd_lightning.training.optim import adamw, linear_schedule

register_optimizer(adamw)
register_scheduler(linear_schedule)


@register_forward_proc_func
def student_logits(network: nn.Module, batch: dict[str, Batch], *_: Any) -> Tensor:
    """How the box asks the student."""
    return network(**batch["student"]).logits


@register_forward_proc_func
def teacher_logits(network: nn.Module, batch: dict[str, Batch], *_: Any) -> Tensor:
    """How the box asks the teacher."""
    return network(**batch["teacher"]).logits


def train(job: Job, setting: str) -> float:
    """Train the job's student; the difference of the gradients that ``check`` found."""
    cached, ours = setting in ("cache", "all"), setting in ("loader", "all")
    teacher = job.teacher()
    lightning.seed_everything(job.seed, verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        with job.clock.running():
            rows, batches = (
                of_similar_length(job, teacher) if ours else (shuffled(job, teacher, pad_to_max=False), None)
            )

            @register_collate_func
            def collate(samples: list[Any]) -> tuple[dict[str, Batch], Tensor, dict[str, Any]]:
                tokens, labels, extras = zip(*samples, strict=True)
                return rows.collate(list(tokens)), torch.tensor(labels), default_collate(list(extras))

            register_batch_sampler(lambda sampler: batches, key="similar_length")
            loader = {
                "dataset_id": "train",
                "sampler": {"class_or_func": RandomSampler},
                "collate_fn": "collate",
                "kwargs": {} if ours else {"batch_size": BATCH},
                **({"cache_output": folder} if cached else {}),
                **({"batch_sampler": {"key": "similar_length", "kwargs": {}}} if ours else {}),
            }
            box = get_distillation_box(
                teacher.network,
                job.student.network,
                {"train": rows},
                config(job, loader),
                torch.device("cpu"),
                None,
                False,
                1,
            )
        batch, labels, _ = collate([(*rows[row], {}) for row in range(BATCH)])
        difference = check(job, teacher, list(range(BATCH)), lambda: box.forward_process(batch, labels, {}))
        with job.clock.running():
            for epoch in range(job.epochs):
                box.pre_epoch_process(epoch=epoch)
                train_one_epoch(box, epoch)
                box.post_epoch_process()
    return difference


def config(job: Job, loader: dict[str, Any]) -> dict[str, Any]:
    """What its examples keep in a YAML file."""
    hook = {"forward_hook": {"input": [], "output": ["classifier"]}}
    kd = {
        "student_module_path": "classifier",
        "student_module_io": "output",
        "teacher_module_path": "classifier",
        "teacher_module_io": "output",
        "temperature": TEMPERATURE,
        "alpha": 1 - ALPHA,
    }  # its alpha is the labels' share
    return {
        "num_epochs": job.epochs,
        "train_data_loader": loader,
        "teacher": {"forward_proc": "teacher_logits", "requires_grad": False, **hook},
        "student": {"forward_proc": "student_logits", "requires_grad": True, **hook},
        "optimizer": {
            "key": "adamw",
            "filters_params": False,
            "max_grad_norm": CLIP,
            "kwargs": {"lr": RATE, "weight_decay": DECAY},
        },
        "scheduler": {
            "key": "linear_schedule",
            "scheduling_step": 1,
            "kwargs": {"total_steps": job.steps, "warmup": WARMUP},
        },
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": {"key": "KDLoss", "kwargs": kd}, "weight": 1.0}}},
        },
    }


def train_one_epoch(box: Any, epoch: int) -> None:
    """The loop that its documentation leaves to the user."""
    logger = MetricLogger(delimiter="  ")
    logger.add_meter("lr", SmoothedValue(window_size=1, fmt="{value}"))
    for batch, labels, extras in logger.log_every(box.train_data_loader, 50, f"Epoch: [{epoch}]"):
        loss = box.forward_process(batch, labels, extras)
        box.post_forward_process(loss=loss)
        logger.update(loss=loss.item(), lr=box.optimizer.param_groups[0]["lr"])
