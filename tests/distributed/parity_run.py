"""Trains each case for 20 steps, in as many processes as it is started in, and writes down what came out.

python tests/distributed/parity_run.py OUT.pt
torchrun --standalone --nproc_per_node=2 tests/distributed/parity_run.py OUT.pt
"""

from __future__ import annotations

import functools
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[2]))

from rwkd_lightning.bilevel import FiniteDifference, Jvp
from rwkd_lightning.data.batching import BucketBatchSampler
from rwkd_lightning.meta import All, Head, HeadWithBank, MetaStep
from rwkd_lightning.systems.text.terms import HiddenStates
from rwkd_lightning.terms import CrossEntropy, DistillationKL, Term
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.training.optim import linear_schedule
from rwkd_lightning.weighting import (
    RWKD,
    AdaptiveMixing,
    ClassificationFeatures,
    CrossFittedRWKD,
    DynamicWeightAverage,
    FixedAlpha,
    GradNorm,
    LearningToReweight,
    MetaWeightNet,
    PerturbationRWKD,
    Uncertainty,
)
from tests.meta.conftest import Stream
from tests.training.conftest import Rows, Student

STEPS, BATCH, ROWS = 20, 16, 64  # five epochs of four steps


class Inner(Student):
    """Gives its features out as hidden states of one layer too."""

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        outputs = super().forward(batch)
        return {**outputs, "hidden": outputs["features"][:, None]}


class Contrast(Term):
    """−log of the softmax, over the rows of the batch, of the similarity with the row's own teacher logits."""

    role = "regulariser"
    in_batch = True

    def forward(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        scores = self.prediction(outputs, batch) @ self.target(batch).T + 0.1 * batch["labels"]
        return -scores.log_softmax(1).diagonal()


def stream() -> Stream:
    return Stream(Rows(24, 7).rows, 8)


def meta(theta: Any, engine: Any = None, **options: Any) -> Callable[[], MetaStep]:
    return lambda: MetaStep(engine or Jvp(), theta(), [CrossEntropy()], stream(), **options)


CASES: dict[str, tuple[Callable[[], Any], Callable[[], MetaStep] | None, dict[str, Any]]] = {
    "kd": (FixedAlpha, None, {}),
    "rwkd": (lambda: RWKD(ClassificationFeatures()), meta(HeadWithBank, start=0.2), {}),
    "rwkd, all": (lambda: RWKD(ClassificationFeatures()), meta(All, FiniteDifference(1e-4, central=True)), {}),
    "rwkd, centred head": (lambda: RWKD(ClassificationFeatures()), meta(functools.partial(Head, True)), {}),
    "rwkd, lookahead": (lambda: RWKD(ClassificationFeatures()), meta(All, lookahead_lr=0.5), {}),
    "rwkd_plain, one backward": (
        lambda: RWKD(ClassificationFeatures(), evidence=0.0),
        meta(All, lookahead_lr=0.5),
        {"updated_weights": "current"},
    ),
    "rwkd_cross_fitted": (lambda: CrossFittedRWKD(ClassificationFeatures()), meta(HeadWithBank), {}),
    "rwkd_cross_fitted, all": (
        lambda: CrossFittedRWKD(ClassificationFeatures()),
        meta(All, FiniteDifference(1e-4, central=True)),
        {},
    ),
    "rwkd, accumulated": (lambda: RWKD(ClassificationFeatures()), meta(HeadWithBank), {"accumulate": 3}),
    "dwa, accumulated": (lambda: DynamicWeightAverage(window=2), None, {"accumulate": 3}),
    "rwkd, hidden": (lambda: RWKD(ClassificationFeatures(), ["ce", "kd", "hidden"]), meta(All), {}),
    "kd, in batch": (FixedAlpha, None, {}),
    "rwkd, in batch": (lambda: RWKD(ClassificationFeatures(), ["ce", "kd", "Contrast"]), meta(All), {}),
    "lookahead, in batch": (
        lambda: RWKD(ClassificationFeatures(), ["ce", "kd", "Contrast"]),
        meta(All, FiniteDifference(1e-4, central=True), lookahead_lr=0.5),
        {},
    ),
    "rwkd_online": (PerturbationRWKD, meta(All), {}),
    "mwn": (MetaWeightNet, meta(HeadWithBank), {}),
    "l2rw": (LearningToReweight, meta(All), {}),
    "amal": (AdaptiveMixing, meta(HeadWithBank, start=0.2), {}),
    "amal, lookahead": (AdaptiveMixing, meta(All, lookahead_lr=0.5), {}),
    "uncertainty": (Uncertainty, None, {}),
    "gradnorm": (GradNorm, None, {}),
    "dwa": (lambda: DynamicWeightAverage(window=2), None, {}),
}


def run(case: str, precision: str, world: int, rank: int) -> dict[str, Tensor]:
    """Parameters before and after, and the weights of every sample."""
    weighting, meta_step, options = CASES[case]
    torch.manual_seed(0)
    data, hidden = Rows(ROWS, 1, corrupted=0.4), "hidden" in case
    student = Inner() if hidden else Student()
    terms = [
        CrossEntropy(),
        DistillationKL(2.0),
        *([HiddenStates()] if hidden else []),
        *([Contrast()] if "in batch" in case else []),
    ]
    if hidden:  # as connected to a teacher of another width
        terms[2].projections.append(torch.nn.Linear(8, 12, bias=False))
        data.rows["teacher_hidden"] = torch.randn(ROWS, 1, 12)
    # SGD: AdamW makes a step of full length of a gradient that is rounding alone
    method = weighting()
    method.prepare(data.rows)
    module = DistillationModule(
        student,
        terms,
        method,
        lambda m: torch.optim.SGD(m.parameters(), lr=0.5, momentum=0.9),
        ROWS,
        meta=meta_step() if meta_step else None,
        schedule=linear_schedule,
        **options,
    )
    before = [p.detach().clone().double() for p in module.trained.parameters()]
    sampler = BucketBatchSampler([1] * ROWS, BATCH // world, 0, num_replicas=world, rank=rank)
    strategy: Any = DDPStrategy(process_group_backend="gloo") if world > 1 else "auto"
    trainer = lightning.Trainer(
        max_steps=STEPS,
        max_epochs=100,
        precision=precision,
        accelerator="cpu",
        devices=world,
        strategy=strategy,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, DataLoader(data, batch_sampler=sampler, generator=torch.Generator()))
    assert trainer.global_step == STEPS
    after = [p.detach().double() for p in module.trained.parameters()]
    own = [p.detach().double().flatten() for p in module.weighting.parameters()]
    return {
        "before": torch.cat([p.flatten() for p in before]),
        "after": torch.cat([p.flatten() for p in after]),
        "own": torch.cat(own) if own else torch.zeros(1),
        "weights": module.ledger.weights.double(),
        "influence": module.ledger.influence.double(),
        "visits": module.ledger.visits,
        "meta_visits": module.ledger.meta_visits,
        "valid": module.ledger.valid,
    }


def main() -> None:
    warnings.filterwarnings("ignore")
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    cases = sys.argv[2:] or list(CASES)
    found = {
        (case, precision): run(case, precision, world, rank) for case in cases for precision in ("64-true", "32-true")
    }
    if rank == 0:
        torch.save(found, sys.argv[1])
    else:
        torch.save(found, f"{sys.argv[1]}.{rank}")


if __name__ == "__main__":
    main()
