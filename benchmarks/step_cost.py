"""What a bi-level training step costs, as a multiple of a plain distillation step with cached teacher logits.

    python benchmarks/step_cost.py [--tasks tweets mrpc --data-path DIR --layers 2 3 6 --turns 6] [--profile]

Real rows, 32 a batch in the loader's order, students of some blocks of MiniLM. All kinds are timed in one run and in
turns, so that a machine that slows down slows all of them down; every kind trains on the same batches in the same
order. A step is a whole ``training_step`` of ``DistillationModule`` under a Trainer: forward, meta step, both
optimizers (AdamW, Adam), clipping, ledger, logging. ``all``: a meta step every step on held-out batches of the size and
lengths of the training batch. The default: the bank as ``conf/meta/bank.yaml`` ships it, on the real held-out rows, its
first fill left out.

What must be computed at least, in forward passes F of a batch (a backward pass is 2 F): ``kd`` 3 F. θ = all: 3 F more
for v and one for the outputs' derivative, 7 F in all, which is 2.33 of ``kd``; the lookahead's gradient 2 F more, 9 F,
3.00, and nothing where the student's step takes the same (``current``: the weights of the φ before, which do not read
the influence). The bank: a forward pass of m rows, m/32 F, so 1.08 for m = 8. AdamW's part of ``kd`` lowers the
multiples, copies of the parameters (v, and θ + εv) raise them; ``--profile`` tells where the time goes.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from real import Rows, SameShapes
from timing import REFRESH, in_turns, machine, quiet, ratios, train

from rwkd_lightning.bilevel import FiniteDifference, Jvp, Unrolled
from rwkd_lightning.meta import All, HeadWithBank, MetaStep
from rwkd_lightning.systems.text.models import Classifier
from rwkd_lightning.terms import CrossEntropy, DistillationKL
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.training.optim import adamw
from rwkd_lightning.weighting import RWKD, ClassificationFeatures, FixedAlpha

BATCH, VISIT = 32, 3  # rows; steps of a visit, of which the first is not timed (loader, caches)
DEFAULT, CURRENT = "bank, jvp (default)", "all, finite difference, lookahead, current"
TARGETS = {"all, finite difference": 2.4, "all, finite difference, lookahead": 3.1, DEFAULT: 1.1}


def kinds(rows: Rows) -> dict[str, MetaStep | None]:
    """Name -> meta step; None is plain distillation."""
    loss, same = [CrossEntropy()], SameShapes(rows.batches, len(rows.module.meta_stream))
    return {
        "kd": None,
        "all, finite difference": MetaStep(FiniteDifference(), All(), loss, same),
        "all, finite difference, lookahead": MetaStep(FiniteDifference(), All(), loss, same, 0.01),
        CURRENT: MetaStep(FiniteDifference(), All(), loss, same, 0.01),
        "all, jvp": MetaStep(Jvp(), All(), loss, same),
        "all, unrolled": MetaStep(Unrolled(), All(), loss, same),
        DEFAULT: MetaStep(Jvp(), HeadWithBank(), loss, rows.module.meta_stream),
    }


def build(meta: MetaStep | None, student: Classifier, size: int, current: bool = False) -> DistillationModule:
    """A module as the shipped configuration builds it, with the new weights or, of a method that allows it, the current
    ones.
    """
    weighting = FixedAlpha() if meta is None else RWKD(ClassificationFeatures(), evidence=0.0 if current else 0.5)
    return DistillationModule(
        student,
        [CrossEntropy(), DistillationKL(2.0)],
        weighting,
        functools.partial(adamw, lr=1e-5),
        size,
        meta=meta,
        clip=1.0,
        updated_weights="current" if current else "new",
    )


def measure(rows: Rows, layers: int, turns: int, only: list[str] | None) -> dict[str, list[float]]:
    """The median seconds of a step of each kind, by turn."""
    first = rows.student(layers)
    modules = {
        name: build(meta, copy.deepcopy(first), rows.size, name == CURRENT)
        for name, meta in kinds(rows).items()
        if only is None or name in ("kd", *only)
    }
    for module in modules.values():
        train(module, rows.batches, 0, 1)  # fills the bank
    return in_turns(
        {
            name: lambda turn, m=module: train(m, rows.batches, 1 + turn * VISIT, VISIT)[1:]
            for name, module in modules.items()
        },
        turns,
    )


def profile(rows: Rows, layers: int) -> None:
    """Print what the steps of the kinds do with their time, by operator."""
    for name, meta in kinds(rows).items():
        if name in ("kd", *TARGETS):
            module = build(meta, rows.student(layers), rows.size)
            train(module, rows.batches, 0, 1)
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
                train(module, rows.batches, 1, VISIT)
            print(
                f"\n{name}\n",
                seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=14, max_name_column_width=48),
                sep="",
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--tasks", nargs="+", default=["tweets"], help="tweets, or GLUE tasks")
    parser.add_argument("--data-path", help="directory of GLUE's Parquet files; without it the hub's")
    parser.add_argument(
        "--layers", type=int, nargs="+", default=[2, 3, 6], help="transformer blocks of the students (1 to 6)"
    )
    parser.add_argument("--refresh", type=int, default=REFRESH, help="rows of the bank refreshed a step")
    parser.add_argument("--only", nargs="+", metavar="KIND", help=f"these kinds, and kd, as {DEFAULT!r}")
    parser.add_argument("--turns", type=int, default=6, help=f"visits of each kind, {VISIT} steps each")
    parser.add_argument("--profile", action="store_true", help="print a profile of each kind in place of the table")
    parser.add_argument("--out", type=Path, default=Path("step_cost.json"), help="JSON file to write")
    options = parser.parse_args()
    quiet()
    result: dict[str, Any] = {
        "settings": {k: v for k, v in vars(options).items() if k not in ("out", "data_path")},
        "machine": machine(),
        "targets": TARGETS,
        "measured": [],
    }
    for name in options.tasks:
        rows = Rows(name, options.data_path, BATCH, options.refresh, 1 + options.turns * VISIT)
        for layers in options.layers:
            if options.profile:
                profile(rows, layers)
                continue
            seconds = measure(rows, layers, options.turns, options.only)
            to_kd = {kind: ratios(seconds, kind, "kd") for kind in seconds}
            print(
                f"\n{f'{name}, {layers} blocks, {rows.tokens / BATCH:.0f} tokens':<44}"
                f"{'seconds':>9}{'x kd':>8}{'target':>9}"
            )
            for kind, values in seconds.items():
                r, target = to_kd[kind], f"<= {TARGETS[kind]}" if kind in TARGETS else ""
                print(
                    f"{kind:<44}{statistics.median(values):>9.3f}{r['median']:>8.2f}{target:>9}   "
                    f"{r['min']:.2f} to {r['max']:.2f}",
                    flush=True,
                )
            result["measured"].append(
                {
                    "task": name,
                    "layers": layers,
                    "tokens_a_row": rows.tokens / BATCH,
                    "ratio_to_kd": to_kd,
                    "seconds_by_turn": seconds,
                }
            )
    if not options.profile:
        options.out.write_text(json.dumps(result, indent=2) + "\n")
        print(f"\n{', '.join(f'{k} {v}' for k, v in machine().items())}\nwritten to {options.out}")


if __name__ == "__main__":
    main()
