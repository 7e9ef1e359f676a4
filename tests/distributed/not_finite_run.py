"""Two processes, of which one meets a row of NaN in the third step; what each of them raised is written down.

torchrun --standalone --nproc_per_node=2 tests/distributed/not_finite_run.py OUT.pt kd
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[2]))

from rwkd_lightning.bilevel import Jvp
from rwkd_lightning.meta import HeadWithBank, MetaStep
from rwkd_lightning.terms import CrossEntropy, DistillationKL
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.utils.errors import NotFinite
from rwkd_lightning.weighting import RWKD, ClassificationFeatures, FixedAlpha
from tests.meta.conftest import Stream
from tests.training.conftest import Rows, Student


def main(out: str, case: str) -> None:
    """Train until the error; each process has its half of every batch of 8."""
    warnings.filterwarnings("ignore")
    rank = int(os.environ["RANK"])
    torch.manual_seed(0)
    data = Rows(32, 1)
    meta = MetaStep(Jvp(), HeadWithBank(), [CrossEntropy()], Stream(Rows(24, 7).rows, 8))
    weighting = FixedAlpha() if case == "kd" else RWKD(ClassificationFeatures())
    if case == "influence":  # of one rank alone
        taken = meta.influence
        meta.influence = lambda *a: taken(*a) * (float("nan") if rank == 1 and meta.steps == 3 else 1.0)  # type: ignore
    else:
        data.rows["x"][21] = float("nan")
    module = DistillationModule(
        Student(),
        [CrossEntropy(), DistillationKL(2.0)],
        weighting,
        lambda m: torch.optim.SGD(m.parameters(), lr=0.1),
        32,
        meta=None if case == "kd" else meta,
    )
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=2,
        strategy=DDPStrategy(process_group_backend="gloo"),
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
    )
    own = [list(range(start + rank, start + 8, 2)) for start in range(0, 32, 8)]
    try:
        trainer.fit(module, DataLoader(data, batch_sampler=own, generator=torch.Generator()))  # type: ignore
    except NotFinite as error:
        kept = [*module.student.parameters(), *module.weighting.parameters(), *module.ledger.buffers()]
        torch.save(
            {
                "said": str(error),
                "step": error.step,
                "what": error.what,
                "rows": error.batch["idx"],
                "losses": error.losses,
                "clean": all(bool(p.isfinite().all()) for p in kept),
            },
            f"{out}.{rank}",
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
