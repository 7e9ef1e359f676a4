"""What the bi-level part of a step costs with 2, 4 and 8 loss terms: all inner products come from one directional
derivative.

    python benchmarks/terms_cost.py [--layers 3 --batch 32 --length 48 --turns 9]

Timed is ``MetaStep.influence`` alone, without the student's own forward and backward pass: the gradient v of the
held-out loss, the outputs' derivative along it, and the influence of every term of every sample. The double backward
(``Unrolled``) is there for comparison. All kinds are timed in one run and in turns; a visit repeats the call for a
while and takes the median.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timing import REFRESH, Stream, in_turns, machine, quiet, ratios, rows, student

from rwkd_lightning.bilevel import FiniteDifference, Jvp, RandomState, Unrolled
from rwkd_lightning.meta import All, HeadWithBank, MetaStep
from rwkd_lightning.systems.text.models import Classifier
from rwkd_lightning.terms import AnnealedMSE, CrossEntropy, DistillationKL, SoftCrossEntropy, stack

TERMS = [CrossEntropy(), DistillationKL(2.0), SoftCrossEntropy(2.0), AnnealedMSE(),
         DistillationKL(1.0), DistillationKL(4.0), SoftCrossEntropy(1.0), SoftCrossEntropy(4.0)]  # fmt: skip
COUNTS = (2, 4, 8)
KINDS: dict[str, tuple[Any, Any]] = {
    "all, finite difference": (FiniteDifference, All),
    "all, jvp": (Jvp, All),
    "bank, jvp (default)": (Jvp, HeadWithBank),
    "all, unrolled": (Unrolled, All),
}


def calls_of(network: Classifier, batch: int, length: int) -> dict[str, Callable[[], None]]:
    """A meta step of every kind with every number of terms, all after one training pass, whose graph is kept."""
    at = {**rows(batch, length, 0), "progress": torch.tensor(0.5)}
    randomness = RandomState.capture(torch.device("cpu"))
    outputs = network(at)

    def call(kind: str, count: int) -> Callable[[], None]:
        engine, theta = KINDS[kind]
        terms, weights = TERMS[:count], torch.full((batch, count), 1 / count)
        meta = MetaStep(
            engine(), theta(), [CrossEntropy()], Stream(REFRESH if theta is HeadWithBank else batch, length)
        )
        meta.build(network)

        def run() -> None:
            u = meta.influence(network, at, outputs, lambda o: stack(terms, o, at), weights, randomness)
            assert u.shape == (batch, count)

        return run

    return {name(kind, count): call(kind, count) for kind in KINDS for count in COUNTS}


def name(kind: str, count: int) -> str:
    """Of a row of the table."""
    return f"{kind}, K = {count}"


def visit(run: Callable[[], None], at_least: float) -> list[float]:
    """Seconds of every call, repeated until so many seconds are over."""
    seconds: list[float] = []
    while not seconds or sum(seconds) < at_least:
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--layers", type=int, default=3, help="transformer blocks of the student (1 to 6)")
    parser.add_argument("--batch", type=int, default=32, help="rows of a batch")
    parser.add_argument("--length", type=int, default=48, help="tokens of a row")
    parser.add_argument("--turns", type=int, default=9, help="visits of each kind")
    parser.add_argument(
        "--visit", type=float, default=0.5, help="a visit repeats the call for at least so many seconds"
    )
    parser.add_argument("--out", type=Path, default=Path("terms_cost.json"), help="JSON file to write")
    options = parser.parse_args()
    quiet()

    network = student(options.layers).train()
    calls = calls_of(network, options.batch, options.length)
    for run in calls.values():
        run()  # fills the bank
    seconds = in_turns({row: lambda _, r=run: visit(r, options.visit) for row, run in calls.items()}, options.turns)
    to_two = {name(kind, k): ratios(seconds, name(kind, k), name(kind, COUNTS[0])) for kind in KINDS for k in COUNTS}

    print(f"\n{'meta step':<32}{'seconds':>9}{'x K = 2':>9}   smallest and largest of {options.turns} turns")
    for row, r in to_two.items():
        print(f"{row:<32}{statistics.median(seconds[row]):>9.4f}{r['median']:>9.2f}   {r['min']:.2f} to {r['max']:.2f}")
    settings = {k: v for k, v in vars(options).items() if k != "out"}
    result = {"settings": settings, "machine": machine(), "ratio_to_two_terms": to_two, "seconds_by_turn": seconds}
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\n{', '.join(f'{k} {v}' for k, v in machine().items())}\nwritten to {options.out}")


if __name__ == "__main__":
    main()
