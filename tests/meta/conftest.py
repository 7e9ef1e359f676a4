from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks import tiny
from rwkd_lightning.systems.text.models import Classifier
from rwkd_lightning.terms import CrossEntropy, DistillationKL, stack

CLASSES = 3


class Stream:
    """Held-out rows of a dict of tensors: step t has the rows t·m to (t+1)·m, cyclically."""

    def __init__(self, rows: dict[str, Tensor], size: int) -> None:
        self.rows, self.size = rows, size

    def __len__(self) -> int:
        return len(self.rows["index"])

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        at = torch.arange(step * self.size, (step + 1) * self.size) % len(self)
        return {k: v[at] for k, v in self.rows.items()}

    def all(self, batch_size: int) -> Iterator[dict[str, Tensor]]:
        for start in range(0, len(self), batch_size):
            yield {k: v[start : start + batch_size] for k, v in self.rows.items()}


def separable(rows: int, seed: int, length: int = 8) -> dict[str, Tensor]:
    """Token rows whose class is the range that most of their tokens come from; the teacher is mostly right."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (rows,), generator=g)
    own = labels[:, None] * 30 + torch.randint(1, 31, (rows, length), generator=g)
    other = torch.randint(1, 91, (rows, length), generator=g)
    ids = torch.where(torch.rand(rows, length, generator=g) < 0.5, own, other)
    mask = (torch.arange(length) < torch.randint(4, length + 1, (rows, 1), generator=g)).long()
    logits = 2 * nn.functional.one_hot(labels, CLASSES) + torch.randn(rows, CLASSES, generator=g)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "teacher_logits": logits,
            "index": torch.arange(rows)}  # fmt: skip


@pytest.fixture
def data() -> Callable[..., dict[str, Tensor]]:
    return separable


@pytest.fixture
def stream() -> type[Stream]:
    return Stream


def bert(dropout: float = 0.1, dtype: torch.dtype = torch.float64, std: float = 0.2) -> Classifier:
    """A random two-block BERT."""
    return tiny.bert(dropout=dropout, num_labels=CLASSES, initializer_range=std).to(dtype)


@pytest.fixture
def student() -> Callable[..., Any]:
    return bert


@pytest.fixture(scope="session")
def trained() -> Classifier:
    """After 100 AdamW steps in float32; one for all tests, so none may change it."""
    net = bert(dropout=0.1, dtype=torch.float32, std=0.1)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    for step in range(100):
        batch = separable(32, 100 + step)
        stack([CrossEntropy(), DistillationKL(2.0)], net(batch), batch).mean().backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    rows = separable(200, 9)
    net.eval()
    with torch.no_grad():
        assert float((net(rows)["logits"].argmax(1) == rows["labels"]).float().mean()) > 0.7  # it has learned
    return net.train()
