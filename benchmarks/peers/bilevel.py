"""One hypergradient, ∂L_meta/∂w of the weights w (B, 2) of two loss terms, here and in higher, TorchOpt and Betty.

    python -m venv peers && peers/bin/pip install "pip<24.1"
    peers/bin/pip install -e ".[offline]" -r benchmarks/peers/requirements_bilevel.txt
    peers/bin/python benchmarks/peers/bilevel.py [--turns 5] --out peers_bilevel.json

On the CPU, in float32, with dropout as in training and the same mask for all. Two estimators: with a lookahead (one SGD
step of length 0.01, the meta loss at its end) and without (at θ itself). With a lookahead, in two settings: the
student's real step takes the weights that the hypergradient gives, or those that the lookahead took
(``meta.weights=current``), and so its gradient too, in all libraries. What is timed is a whole cycle: forward pass,
hypergradient, gradient of the real step, which share what the library lets them share; no optimizer's step. All in one
process, in turns. Cosine and error of the influence u = −(n/a)·∂L_meta/∂w are against ``Unrolled``, our double
backward; a gradient of the real step that differs stops the benchmark. Memory: ``bilevel_memory.py``. What each library
is given: ``bilevel_double.py`` and ``bilevel_betty.py``.
"""

from __future__ import annotations

import argparse
import functools
import gc
import importlib.metadata
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for library in ("higher", "torchopt", "betty"):
    if importlib.util.find_spec(library) is None:
        sys.exit(
            f"{library} is not installed; pip install -r benchmarks/peers/requirements_bilevel.txt (with pip<24.1)"
        )
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402
from bilevel_betty import with_betty  # noqa: E402
from bilevel_double import STEP, with_higher, with_torchopt, with_torchopt_by_hand  # noqa: E402
from bilevel_memory import CLEAR, in_own_process, measure  # noqa: E402
from bilevel_scene import Cycle, Scene  # noqa: E402
from timing import in_turns, machine, quiet, ratios  # noqa: E402
from torch import Tensor  # noqa: E402

from rwkd_lightning.bilevel import Engine, FiniteDifference, Jvp, Unrolled  # noqa: E402
from rwkd_lightning.meta import All, MetaStep  # noqa: E402
from rwkd_lightning.terms import CrossEntropy  # noqa: E402
from rwkd_lightning.training.batch_passes import OnePass  # noqa: E402

OURS, REFERENCE, PLAIN = "ours, finite difference", "ours, unrolled", "no hypergradient"
CURRENT = "lookahead, current"
ESTIMATORS = ("lookahead", CURRENT, "no lookahead")
TIMES = {"lookahead": 1.2, "no lookahead": 1.6}
"""What a peer's seconds should be at least, as a multiple of ours."""
MEMORY = 2.0
"""The same of its activations."""


def ours(engine: Engine, lookahead: float | None, current: bool, scene: Scene) -> Cycle:
    """The meta step as a run takes it, before the student's backward or, with the weights of now, after it."""
    meta = MetaStep(engine, All(), [CrossEntropy()], [scene.held_out], lookahead)
    names = [name for name, _ in scene.student.named_parameters()]

    def run(batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        outputs = scene.student(batch)
        return outputs, scene.losses(outputs)

    def cycle() -> Any:
        meta.steps = 0
        gradient: list[Tensor] = []
        passes = OnePass(
            scene.batch,
            run,
            lambda loss, _: gradient.extend(torch.autograd.grad(loss, scene.parameters)),
            torch.device("cpu"),
        )
        if current:
            passes.descend(scene.weights)
        influence = meta.influence(
            scene.student,
            scene.batch,
            lambda: passes.forward()[0],
            scene.losses,
            scene.weights,
            passes.randomness,
            dict(zip(names, gradient, strict=True)) if current else None,
        )
        if not current:
            passes.descend(scene.weights)
        return influence, gradient

    return cycle


def plain(scene: Scene) -> Cycle:
    """The student's step alone."""
    return lambda: (torch.full_like(scene.weights, torch.nan), scene.gradient(scene.losses(scene.student(scene.batch))))


def kinds(estimator: str) -> dict[str, Callable[[Scene], Cycle]]:
    """Name -> what makes its cycle."""
    ahead, current = estimator != "no lookahead", estimator == CURRENT
    step = STEP if ahead else None
    betty = {"Betty, darts": False} | (
        {} if current else {"Betty, darts, roll back": True}
    )  # rolled back, it takes new weights
    return {
        REFERENCE: functools.partial(ours, Unrolled(), step, current),
        OURS: functools.partial(ours, FiniteDifference(), step, current),
        "ours, jvp": functools.partial(ours, Jvp(), step, current),
        "higher": functools.partial(with_higher, lookahead=ahead, current=current),
        "TorchOpt": functools.partial(with_torchopt_by_hand if current else with_torchopt, lookahead=ahead),
        **{name: functools.partial(with_betty, lookahead=step, roll_back=back) for name, back in betty.items()},
        PLAIN: plain,
    }


def accuracy(scene: Scene, cycles: dict[str, Cycle]) -> dict[str, dict[str, float]]:
    """How far each is from the reference, which is the first; this is also its first cycle, not timed."""
    found, reference = {}, None
    for name, cycle in cycles.items():
        scene.begin()
        influence, gradient = cycle()
        both = influence.flatten().double(), torch.cat([g.flatten() for g in gradient])
        reference = reference or both
        error = [float((a - b).norm() / b.norm()) for a, b in zip(both, reference, strict=True)]
        if not error[1] < 1e-4:
            sys.exit(f"{name}: the gradient of the student's real step is off by {error[1]:.1e}; this is no comparison")
        cosine = float(torch.cosine_similarity(both[0], reference[0], 0))
        found[name] = {"cosine": cosine, "error": error[0], "gradient_error": error[1]}
    return found


def visit(scene: Scene, cycle: Cycle, count: int) -> list[float]:
    """Seconds of each of ``count`` cycles from the same θ."""
    seconds = []
    for _ in range(count):
        scene.begin()
        gc.collect()  # higher leaves cycles of references that hold its graph
        start = time.perf_counter()
        cycle()
        seconds.append(time.perf_counter() - start)
    return seconds


def compare(estimator: str, options: argparse.Namespace, memory: bool) -> dict[str, Any]:
    """One table."""
    scene = Scene(options.layers, options.batch, options.length)
    cycles = {name: make(scene) for name, make in kinds(estimator).items()}
    precise = accuracy(scene, cycles)
    visits = {name: functools.partial(lambda cycle, _: visit(scene, cycle, options.cycles), cycle)
              for name, cycle in cycles.items()}  # fmt: skip
    seconds = in_turns(visits, options.turns)
    times = {name: ratios(seconds, name, OURS) for name in seconds}
    sizes = ["--layers", str(options.layers), "--batch", str(options.batch), "--length", str(options.length)]
    mib = in_own_process([__file__, *sizes, "--memory-of", estimator]) if memory else {}

    print(
        f"\n{estimator:<26}{'seconds':>9}{'x ours':>8}{'(range)':>13}{'target':>8}{'cosine':>10}{'error':>9}"
        f"{'peak MiB':>10}{'activations':>13}{'x ours':>8}{'target':>8}"
    )
    for name in cycles:
        peer = not name.startswith("ours") and name != PLAIN and estimator in TIMES
        row = f"{name:<26}{statistics.median(seconds[name]):>9.3f}{times[name]['median']:>8.2f}"
        row += f"{times[name]['min']:>7.2f}-{times[name]['max']:<5.2f}{f'>= {TIMES[estimator]}' if peer else '':>8}"
        row += f"{precise[name]['cosine']:>10.6f}{precise[name]['error']:>9.1e}" if name != PLAIN else " " * 19
        if mib:
            row += f"{mib[name]['peak']:>10.0f}{mib[name]['activations']:>13.0f}"
            row += f"{mib[name]['activations'] / mib[OURS]['activations']:>8.2f}{f'>= {MEMORY}' if peer else '':>8}"
        print(row, flush=True)
    return {"seconds": seconds, "ratio_to_ours": times, "accuracy": precise, "memory_mib": mib}


def main() -> None:
    """Print a table of each estimator."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--layers", type=int, default=3, help="transformer blocks of the student (1 to 6)")
    parser.add_argument("--batch", type=int, default=32, help="rows of the training batch, and of the held-out one")
    parser.add_argument("--length", type=int, default=48, help="tokens of a row")
    parser.add_argument("--turns", type=int, default=5, help="times that all kinds are visited")
    parser.add_argument("--cycles", type=int, default=3, help="timed cycles a visit")
    parser.add_argument("--no-memory", action="store_true", help="time only")
    parser.add_argument("--only", nargs="+", choices=ESTIMATORS, default=ESTIMATORS, help="these estimators")
    parser.add_argument("--memory-of", choices=ESTIMATORS, help="print the memory of one estimator's kinds alone")
    parser.add_argument("--out", type=Path, default=Path("peers_bilevel.json"), help="JSON file to write")
    options = parser.parse_args()
    quiet()
    if not options.no_memory and not CLEAR.exists():
        sys.exit(f"memory is measured by {CLEAR}, which this system lacks; use --no-memory")
    if options.memory_of:
        print(json.dumps(measure(kinds(options.memory_of), options.layers, options.batch, options.length)))
        return

    results = {estimator: compare(estimator, options, not options.no_memory) for estimator in options.only}
    settings = {k: v for k, v in vars(options).items() if k not in ("out", "memory_of")} | {"step": STEP}
    versions = {
        name: importlib.metadata.version(name) for name in ("torch", "transformers", "higher", "torchopt", "betty-ml")
    }
    targets = {"times": TIMES, "activations": MEMORY}
    result = {"settings": settings, "machine": machine(), "versions": versions, "targets": targets, "results": results}
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\n{', '.join(f'{k} {v}' for k, v in (machine() | versions).items())}\nwritten to {options.out}")


if __name__ == "__main__":
    main()
