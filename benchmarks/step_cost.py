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
import statistics
from pathlib import Path
from typing import Any

from timing import HELD_OUT, Steps, Stream, machine, quiet, student, train

from rwkd_lightning.bilevel import FiniteDifference, Jvp, Unrolled
from rwkd_lightning.meta import All, HeadWithBank, MetaStep
from rwkd_lightning.module import DistillationModule
from rwkd_lightning.optim import adamw
from rwkd_lightning.terms import CrossEntropy, DistillationKL
from rwkd_lightning.weighting import RWKD, ClassificationFeatures, FixedAlpha

TARGETS = {"all, finite difference": 2.6, "all, finite difference, lookahead": 3.2}


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
    weighting = FixedAlpha() if meta is None else RWKD(ClassificationFeatures())
    return DistillationModule(student(layers), [CrossEntropy(), DistillationKL(2.0)], weighting,
                              functools.partial(adamw, lr=1e-5), HELD_OUT, meta=meta, clip=1.0)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--layers", type=int, default=3, help="transformer blocks of the student (1 to 6)")
    parser.add_argument("--batch", type=int, default=32, help="rows of a batch")
    parser.add_argument("--length", type=int, default=48, help="tokens of a row")
    parser.add_argument("--steps", type=int, default=12, help="timed steps of each kind")
    parser.add_argument("--out", type=Path, default=Path("step_cost.json"), help="JSON file to write")
    options = parser.parse_args()
    quiet()

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
