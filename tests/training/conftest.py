from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from rwkd_lightning.bilevel import Jvp
from rwkd_lightning.meta import HeadWithBank, MetaStep
from rwkd_lightning.terms import CrossEntropy, DistillationKL
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.training.optim import adamw
from rwkd_lightning.weighting import RWKD, ClassificationFeatures
from tests.meta.conftest import Stream

WIDTH = 6


class Student(nn.Module):
    """One hidden layer, dropout and a head; batch -> outputs by name."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Linear(WIDTH, 8)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, 2)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        features = self.dropout(torch.tanh(self.body(batch["x"].to(self.body.weight.dtype))))
        return {"logits": self.head(features), "features": features}

    def block_names(self) -> list[str]:
        return [n for n, _ in self.named_parameters()]


class Rows(Dataset[dict[str, Tensor]]):
    """Linearly separable rows; the teacher is sound or, on a share of the rows, the wrong way round."""

    def __init__(self, size: int, seed: int, corrupted: float = 0.0) -> None:
        g = torch.Generator().manual_seed(seed)
        x = torch.randn(size, WIDTH, generator=g)
        labels = (x[:, 0] + x[:, 1] > 0).long()
        wrong = torch.rand(size, generator=g) < corrupted
        logits = 3.0 * nn.functional.one_hot(torch.where(wrong, 1 - labels, labels), 2)
        self.rows = {"x": x, "labels": labels, "teacher_logits": logits, "index": torch.arange(size),
                     "idx": 1000 + torch.arange(size), "teacher_corrupted": wrong,
                     "label_flipped": torch.zeros(size, dtype=torch.bool)}  # fmt: skip

    def __len__(self) -> int:
        return len(self.rows["x"])

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {k: v[i] for k, v in self.rows.items()}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        yield


@pytest.fixture
def unrehearsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No meta step before the training, for tests that count passes."""
    monkeypatch.setattr("rwkd_lightning.training.hooks.rehearse", lambda *_: None)


@pytest.fixture
def rows() -> type[Rows]:
    return Rows


@pytest.fixture
def meta_step() -> Callable[..., MetaStep]:
    """The shipped default on 20 held-out rows."""

    def make(size: int = 20, engine: Any = None, theta: Any = None, **options: Any) -> MetaStep:
        return MetaStep(
            engine or Jvp(), theta or HeadWithBank(), [CrossEntropy()], Stream(Rows(size, 7).rows, 5), **options
        )

    return make


@pytest.fixture
def student() -> Callable[..., Student]:
    def make(seed: int = 0, **options: Any) -> Student:
        torch.manual_seed(seed)
        return Student(**options)

    return make


@pytest.fixture
def module(student: Callable[..., Student], meta_step: Callable[..., MetaStep]) -> Callable[..., DistillationModule]:
    """A module on the tiny student; RW-KD as shipped if nothing else is asked for."""

    def make(weighting: Any = None, train_size: int = 32, net: Any = None, terms: Any = None,
             **options: Any) -> DistillationModule:  # fmt: skip
        net = net or student()
        weighting = weighting or RWKD(ClassificationFeatures())
        if weighting.needs_influence:
            options.setdefault("meta", meta_step())
        options.setdefault("optimizer", functools.partial(adamw, lr=1e-2))
        terms = terms or [CrossEntropy(), DistillationKL(2.0)]
        return DistillationModule(net, terms, weighting, train_size=train_size, **options)

    return make


@pytest.fixture
def fit(tmp_path: Path) -> Callable[..., lightning.Trainer]:
    """Trains under a real Trainer on the CPU; batches in the order of the rows."""

    def run(module: DistillationModule, data: Rows, batch_size: int = 8, ckpt_path: Any = None,
            **options: Any) -> lightning.Trainer:  # fmt: skip
        options = {"max_epochs": 1, "enable_checkpointing": False, **options}
        trainer = lightning.Trainer(
            accelerator="cpu", devices=1, logger=False, enable_model_summary=False, enable_progress_bar=False,
            default_root_dir=tmp_path, **options)  # fmt: skip
        # a generator of its own: without one the loader draws from the global stream, but not in a resumed run
        loader = DataLoader(data, batch_size, generator=torch.Generator())
        trainer.fit(module, loader, ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
        return trainer

    return run
