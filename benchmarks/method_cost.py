"""What a training step of every weighting method costs, as a multiple of a step of ``kd`` with cached teacher logits.

    python benchmarks/method_cost.py [--layers 3 --batch 32 --length 48 --steps 12] [--only rwkd mwn] [--fill
    docs/methods]

Each method as shipped in ``conf/weighting``, with its own loss terms; those that need it take the shipped meta step
(the head with its bank, 8 rows refreshed) at every step. A step is a whole ``training_step`` of ``DistillationModule``
under a Trainer: forward, meta step, both optimizers, clipping, ledger, logging. All methods are timed in one run and in
turns, and compared with ``kd`` turn by turn; ``kd`` is timed a second time, under another name, to show what a ratio of
1 looks like. One student is shared by all, so that a run of all methods needs about as much memory as one of them.
``--fill`` writes the ratios into the methods' pages.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import resource
import statistics
from pathlib import Path

from hydra import compose, initialize_config_dir
from timing import HELD_OUT, Steps, Stream, in_turns, machine, quiet, ratios, rows, student, train

from rwkd_lightning.bilevel import Engine
from rwkd_lightning.meta import MetaStep, Restriction
from rwkd_lightning.run.build import create, term_of, terms_of, weighting_of
from rwkd_lightning.systems.text.models import Classifier
from rwkd_lightning.training.compatibility import check_terms
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.training.optim import adamw

CONF = Path(__file__).parents[1] / "conf"
METHODS = sorted(file.stem for file in (CONF / "weighting").glob("*.yaml"))
AGAIN = "kd, again"
TIMED = 2  # steps of a turn; one more before them is not timed (loader, optimizer state, caches)


def build(name: str, network: Classifier, length: int) -> DistillationModule:
    """A module as the shipped configuration of this method builds it, on this student."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [f"weighting={name}", "meta.start=0"])
    weighting, terms, meta = weighting_of(config), terms_of(config), None
    check_terms(terms, {"classes"}, weighting)
    weighting.prepare(rows(HELD_OUT, 1, 0))
    if weighting.needs_influence:
        meta = MetaStep(
            create(config, "meta.engine", Engine),
            create(config, "meta.theta", Restriction),
            [term_of(config, "ce")],
            Stream(config.meta.batch_size, length),
            config.meta.lookahead_lr,
            config.meta.every,
            config.meta.start,
        )
    return DistillationModule(
        network,
        terms,
        weighting,
        functools.partial(adamw, lr=1e-5),
        HELD_OUT,
        meta=meta,
        updated_weights=config.meta.weights,
        clip=config.trainer.clip,
    )


def fill(folder: Path, found: dict[str, float]) -> None:
    """Write the ratios into the cost lines of the methods' pages."""
    for name, ratio in found.items():
        page = folder / f"{name}.md"
        text, count = re.subn(r"(?m)^(Cost per step: )\S+( × a `kd` step)", rf"\g<1>{ratio:.2f}\g<2>", page.read_text())
        if count != 1:
            raise SystemExit(f"{page} has {count} lines 'Cost per step: ... × a `kd` step'; it needs one")
        page.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--layers", type=int, default=3, help="transformer blocks of the student (1 to 6)")
    parser.add_argument("--batch", type=int, default=32, help="rows of a batch")
    parser.add_argument("--length", type=int, default=48, help="tokens of a row")
    parser.add_argument("--steps", type=int, default=12, help="timed steps of each method")
    parser.add_argument(
        "--only", nargs="*", choices=METHODS, default=METHODS, metavar="NAME", help="these methods, and kd"
    )
    parser.add_argument("--out", type=Path, default=Path("method_cost.json"), help="JSON file to write")
    parser.add_argument("--fill", type=Path, metavar="DIR", help="write the ratios into the pages DIR/NAME.md")
    options = parser.parse_args()
    quiet()

    turns = -(-options.steps // TIMED)
    steps = Steps(1 + turns * (TIMED + 1), options.batch, options.length)
    network = student(options.layers)
    names = ["kd", AGAIN, *(name for name in options.only if name != "kd")]
    modules = {name: build("kd" if name == AGAIN else name, network, options.length) for name in names}
    for module in modules.values():
        train(module, steps, 0, 1)  # fills the bank
    visits = {
        name: lambda turn, m=module: train(m, steps, 1 + turn * (TIMED + 1), TIMED + 1)[1:]
        for name, module in modules.items()
    }
    seconds = in_turns(visits, turns)
    to_kd = {name: ratios(seconds, name, "kd") for name in names}

    print(f"\n{'method':<22}{'seconds':>9}{'x kd':>8}   smallest and largest of {turns} turns")
    for name in names:
        r = to_kd[name]
        print(
            f"{name:<22}{statistics.median(seconds[name]):>9.3f}{r['median']:>8.2f}   {r['min']:.2f} to {r['max']:.2f}"
        )
    settings = {k: v for k, v in vars(options).items() if k not in ("out", "fill")}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    result = {
        "settings": settings,
        "machine": machine(),
        "peak_memory_gib": peak,
        "ratio_to_kd": to_kd,
        "seconds_by_turn": seconds,
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(
        f"\n{', '.join(f'{k} {v}' for k, v in machine().items())}, peak memory {peak:.1f} GiB\nwritten to {options.out}"
    )
    if options.fill is not None:
        fill(options.fill, {name: to_kd[name]["median"] for name in names if name in ("kd", *options.only)})


if __name__ == "__main__":
    main()
