"""Training rows a second of several processes against one, the same batch in all.

    python benchmarks/throughput.py [--processes 2 --batch 32 --length 48 --steps 12 --turns 3]

Arrangements take turns: one process with one thread, one process with as many threads as there are processes, that many
processes with one thread each (gloo, on the CPU), each with its share of the batch. Whole training steps under a
Trainer.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy
from timing import HELD_OUT, REFRESH, Steps, Stopwatch, Stream, in_turns, machine, quiet, ratios, student
from torch.utils.data import DataLoader

from rwkd_lightning.bilevel import Jvp
from rwkd_lightning.meta import HeadWithBank, MetaStep
from rwkd_lightning.terms import CrossEntropy, DistillationKL
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.training.optim import adamw
from rwkd_lightning.weighting import RWKD, ClassificationFeatures, FixedAlpha


def work(options: argparse.Namespace) -> None:
    """One process of an arrangement; the first one prints the seconds of its steps."""
    quiet()
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    rwkd = options.method == "rwkd"
    meta = MetaStep(Jvp(), HeadWithBank(), [CrossEntropy()], Stream(REFRESH, options.length)) if rwkd else None
    torch.manual_seed(0)
    module = DistillationModule(
        student(options.layers),
        [CrossEntropy(), DistillationKL(2.0)],
        RWKD(ClassificationFeatures()) if rwkd else FixedAlpha(),
        functools.partial(adamw, lr=1e-5),
        HELD_OUT,
        meta=meta,
    )
    watch = Stopwatch()
    trainer = lightning.Trainer(
        max_steps=options.steps + 2,
        accelerator="cpu",
        devices=world,
        callbacks=[watch],
        logger=False,
        strategy=DDPStrategy(process_group_backend="gloo") if world > 1 else "auto",
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, DataLoader(Steps(options.steps + 2, options.batch // world, options.length), batch_size=None))
    if rank == 0:
        print(json.dumps(watch.seconds[2:]))


def start(options: argparse.Namespace, method: str, processes: int, threads: int) -> list[float]:
    """The seconds of each step of an arrangement."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    sizes = [f"--{name}={getattr(options, name)}" for name in ("batch", "length", "steps", "layers")]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        **({"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}),
    }
    done = subprocess.run(
        [sys.executable, *launcher, __file__, "--method", method, *sizes],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    seconds: list[float] = json.loads(done.stdout.splitlines()[-1])
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--layers", type=int, default=3, help="transformer blocks of the student (1 to 6)")
    parser.add_argument("--batch", type=int, default=32, help="rows of a batch, all processes together")
    parser.add_argument("--length", type=int, default=48, help="tokens of a row")
    parser.add_argument("--steps", type=int, default=12, help="timed steps of an arrangement in a turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--method", help=argparse.SUPPRESS)  # set in the processes that are timed
    parser.add_argument("--out", type=Path, default=Path("throughput.json"), help="JSON file to write")
    options = parser.parse_args()
    if options.method:
        return work(options)
    many = options.processes
    arrangements = {
        "1 process, 1 thread": (1, 1),
        f"1 process, {many} threads": (1, many),
        f"{many} processes, 1 thread each": (many, 1),
    }
    result = {}
    for method in ("kd", "rwkd"):
        seconds = in_turns(
            {name: lambda _, p=p, t=t, m=method: start(options, m, p, t) for name, (p, t) in arrangements.items()},
            options.turns,
        )
        base = next(iter(arrangements))
        print(f"\n{method:<28}{'rows/s':>9}{'x ' + base:>25}")
        result[method] = {
            name: {
                "rows_per_second": options.batch / statistics.median(values),
                "times_faster": ratios(seconds, base, name),
            }
            for name, values in seconds.items()
        }
        for name, row in result[method].items():
            ratio = row["times_faster"]
            print(
                f"{name:<28}{row['rows_per_second']:>9.1f}{ratio['median']:>10.2f} ({ratio['min']:.2f} to"
                f" {ratio['max']:.2f})"
            )
    options.out.write_text(json.dumps({"machine": machine(), "result": result}, indent=2) + "\n")
    print(f"\n{', '.join(f'{k} {v}' for k, v in machine().items())}\nwritten to {options.out}")
    return None


if __name__ == "__main__":
    main()
