"""Peak memory of bi-level training steps above that of the interpreter, and as a multiple of plain distillation's.

    python benchmarks/memory_cost.py [--layers 2 3 6 --length 48 128 --batch 32 --steps 4]

Every kind of step runs in a process of its own: imports, then the resident size (the baseline), then the student and a
few whole training steps of ``DistillationModule`` under a Trainer, as in ``step_cost.py``, with AdamW, clipping, and
held-out batches as large as the training's (the bank: 8 rows refreshed a step; its filling is in the peak). The peak is
the kernel's own (VmHWM), so it counts the allocator's leftovers too, but not those of loading the student.
"Activations" is what the peak has above weights, gradient and the two moments, 4 numbers a parameter: graphs, copies of
θ, v, and whatever else. Linux only.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
from pathlib import Path
from typing import Any

import transformers.models.bert.modeling_bert  # noqa: F401 - loaded with the first student, and no part of a step
from memory import MIB, apart, bytes_of, settle, sizes
from timing import HELD_OUT, Steps, Stream, machine, quiet, student, train

from rwkd_lightning.bilevel import Engine, FiniteDifference, Jvp, Unrolled
from rwkd_lightning.meta import All, HeadWithBank, MetaStep
from rwkd_lightning.terms import CrossEntropy, DistillationKL
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.training.optim import adamw
from rwkd_lightning.weighting import RWKD, ClassificationFeatures, FixedAlpha

LOOKAHEAD = 0.01
ENGINES: dict[str, type[Engine]] = {"finite difference": FiniteDifference, "jvp": Jvp, "double backward": Unrolled}
BANK = "bank, jvp (default)"
CURRENT = "all, finite difference, lookahead, current"
"""The student's step with the weights that the lookahead took, and so along the same gradient
(``meta.weights=current``).
"""
KINDS = ["kd", BANK, *(f"all, {engine}{also}" for engine in ENGINES for also in ("", ", lookahead")), CURRENT]
TARGETS = {"all, finite difference": 1.25, "all, finite difference, lookahead": 1.6}


def build(kind: str, layers: int, batch: int, length: int) -> DistillationModule:
    """A module as the shipped configuration builds it."""
    meta = None
    if kind == BANK:
        meta = MetaStep(Jvp(), HeadWithBank(), [CrossEntropy()], Stream(8, length))
    elif kind != "kd":
        _, engine, *also = kind.split(", ")
        meta = MetaStep(ENGINES[engine](), All(), [CrossEntropy()], Stream(batch, length), LOOKAHEAD if also else None)
    current = kind == CURRENT
    weighting = FixedAlpha() if meta is None else RWKD(ClassificationFeatures(), evidence=0.0 if current else 0.5)
    return DistillationModule(student(layers), [CrossEntropy(), DistillationKL(2.0)], weighting,
                              functools.partial(adamw, lr=1e-5), HELD_OUT, meta=meta, clip=1.0,
                              updated_weights="current" if current else "new")  # fmt: skip


def measure(kind: str, layers: int, batch: int, length: int, steps: int) -> dict[str, float]:
    """MiB of the peak above the baseline, and what of it is neither weights nor gradient nor moments; in this
    process.
    """
    quiet()
    baseline = sizes()["VmRSS"]
    module = build(kind, layers, batch, length)
    batches = Steps(steps, batch, length)
    settle()  # loading peaks too
    train(module, batches, 0, steps)
    peak = sizes()["VmHWM"] - baseline
    state = 4 * bytes_of(module.student) / MIB
    return {"baseline_mib": baseline, "peak_mib": peak, "state_mib": state, "activations_mib": peak - state}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument(
        "--layers", type=int, nargs="+", default=[2, 3, 6], help="transformer blocks of the student (1 to 6)"
    )
    parser.add_argument("--length", type=int, nargs="+", default=[48, 128], help="tokens of a row")
    parser.add_argument("--batch", type=int, default=32, help="rows of a batch")
    parser.add_argument("--steps", type=int, default=4, help="training steps; the moments are there from the second on")
    parser.add_argument("--repeats", type=int, default=1, help="processes of each kind, of which the median is taken")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS, metavar="KIND", help="these kinds, and kd")
    parser.add_argument("--out", type=Path, default=Path("memory_cost.json"), help="JSON file to write")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(measure(**options.one)))
        return

    found: list[dict[str, Any]] = []
    print(
        f"{'layers':>6}{'length':>8}  {'step':<44}{'peak MiB':>9}{'x kd':>7}{'target':>9}{'activations':>13}{'x kd':>7}"
    )
    for layers in options.layers:
        for length in options.length:
            kd: dict[str, float] = {}
            for kind in ["kd", *(kind for kind in options.only if kind != "kd")]:
                runs = [
                    apart(__file__, kind=kind, layers=layers, batch=options.batch, length=length, steps=options.steps)
                    for _ in range(options.repeats)
                ]
                row = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
                kd = kd or row
                row |= {f"{name}_to_kd": row[f"{name}_mib"] / kd[f"{name}_mib"] for name in ("peak", "activations")}
                target = f"<= {TARGETS[kind]}" if kind in TARGETS else ""
                print(f"{layers:>6}{length:>8}  {kind:<44}{row['peak_mib']:>9.0f}{row['peak_to_kd']:>7.2f}{target:>9}"
                      f"{row['activations_mib']:>13.0f}{row['activations_to_kd']:>7.2f}", flush=True)  # fmt: skip
                found.append(
                    {
                        "layers": layers,
                        "length": length,
                        "kind": kind,
                        **row,
                        "peaks_mib": [run["peak_mib"] for run in runs],
                    }
                )
    settings = {k: v for k, v in vars(options).items() if k not in ("out", "one")}
    options.out.write_text(
        json.dumps({"settings": settings, "machine": machine(), "targets": TARGETS, "rows": found}, indent=2) + "\n"
    )
    print(f"\n{', '.join(f'{k} {v}' for k, v in machine().items())}\nwritten to {options.out}")


if __name__ == "__main__":
    main()
