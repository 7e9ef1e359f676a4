"""The logits of a teacher's blocks for the training rows, computed once and cached."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from omegaconf import DictConfig
from safetensors.torch import save_file
from torch import Tensor

from rwkd_lightning.cache.store import Store, tensors
from rwkd_lightning.run.identity import keyed, only
from rwkd_lightning.run.predict import predict
from rwkd_lightning.run.system import Teacher
from rwkd_lightning.systems.text import teacher as stages
from rwkd_lightning.systems.text.data.task import UNLABELLED, TaskData, column
from rwkd_lightning.systems.text.heads.train import BATCH, EPOCHS, LEAST, RATE, train_heads
from rwkd_lightning.systems.text.models import Classifier, fingerprint

log = logging.getLogger(__name__)
MOST = 2 * 2**30
"""Bytes of states from which heads are trained; of more rows every so many-th is taken."""


def layer_logits(
    config: DictConfig,
    teacher: Teacher,
    network: Classifier,
    data: TaskData,
    pool: str,
    store: Store,
    device: torch.device,
) -> Tensor:
    """``(N, L, C)`` of the training rows: what a head on each block says, and at the last place the teacher itself.

    The heads learn from the labels of ``teacher_train``, with which the teacher was trained.

    Args:
        pool: the state that a head reads, as of ``hidden``.
    """
    seed = int(config.pair.teacher.seed)
    key = {
        "teacher": fingerprint(teacher.folder),
        "labels": data.task.label_names,
        "settings": keyed(config, stages.LOGITS),
        "data": {split: data.fingerprint(split) for split in ("teacher_train", "train")},
        "heads": [pool, EPOCHS, RATE, BATCH, LEAST, seed],
    }

    def build(folder: Path) -> None:
        rows = data.splits["teacher_train"]
        labels = torch.from_numpy(data.task.targets(column(rows, "label")))
        known = (labels != UNLABELLED).nonzero().flatten()
        held = len(rows) * network.num_blocks * network.width * 2
        known = known[:: max(1, -(-held // MOST))]
        heads = train_heads(states("teacher_train")[known], labels[known], data.task.num_labels, seed)
        own = states("train")
        said = torch.cat([heads(own[start : start + 4096]) for start in range(0, len(own), 4096)])
        said[:, -1] = stages.logits(config, teacher, data, store, device)["train"]
        tell(said, data)
        save_file({"logits": said.contiguous()}, folder / "layer_logits.safetensors")

    def states(split: str) -> Tensor:
        network.keep("layers", range(network.num_blocks), pool)
        given = only(config, stages.LOGITS)
        loader = stages.loaders_of(given, teacher, data, store).dataloader(split)
        precision = str(given.pair.teacher.precision)
        size = len(data.splits[split])
        found = predict(network, loader, size, device, f"teacher's blocks: {split}", precision, "layers", torch.float16)
        network.drop("layers")
        return found

    folder = store.get("layer_logits", key, build, about=f"{data.task.name}: blocks of {config.pair.teacher.path}")
    shape = (len(data.splits["train"]), network.num_blocks, data.task.num_labels)
    return tensors(folder / "layer_logits.safetensors", {"logits": shape})["logits"]


def tell(said: Tensor, data: TaskData) -> None:
    """Log how often each block is right about the labels of the training rows."""
    labels = torch.from_numpy(data.task.targets(column(data.splits["train"], "label")))
    known = labels != UNLABELLED
    if bool(known.any()):
        right = (said[known].argmax(2) == labels[known][:, None]).float().mean(0)
        log.info("the teacher's blocks are right on train: %s", ", ".join(f"{share:.3f}" for share in right.tolist()))
