"""What bf16-mixed gains over float32 where the processor has it: seconds of an epoch, `kd` and the shipped `rwkd`.

    python benchmarks/precision.py [--task mrpc --data-path DIR --layers 6 --turns 5]

Whole training steps on real rows, 32 a batch, spread evenly over the epoch; the precisions take turns on the same
batches. Scores of both precisions: ``docs/results.md``.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from real import Rows
from step_cost import BATCH, DEFAULT, build, kinds
from timing import REFRESH, in_turns, machine, quiet, ratios, train

VISIT = 4  # steps of a visit, of which the first is not timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--task", default="tweets", help="tweets, or a GLUE task")
    parser.add_argument("--data-path", help="directory of GLUE's Parquet files; without it the hub's")
    parser.add_argument("--layers", type=int, default=6, help="transformer blocks of the student (1 to 6)")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("precision.json"), help="JSON file to write")
    options = parser.parse_args()
    quiet()
    rows = Rows(options.task, options.data_path, BATCH, REFRESH)
    epoch = -(-rows.size // BATCH)
    every = max(1, len(rows.batches) // (options.turns * VISIT))
    batches = rows.batches[::every][: options.turns * VISIT]
    visits = {}
    for method, kind in (("kd", "kd"), ("rwkd", DEFAULT)):
        for precision in ("32-true", "bf16-mixed"):
            module = build(kinds(rows)[kind], rows.student(options.layers), rows.size)
            train(module, batches, 0, 2, precision)  # fills the bank, makes the kernels
            visits[f"{method}, {precision}"] = lambda turn, m=module, p=precision: train(
                m, batches, turn * VISIT, VISIT, p
            )[1:]
    seconds = in_turns(visits, options.turns, statistics.mean)
    print(f"\n{f'{options.task}, {options.layers} blocks':<24}{'s an epoch':>12}{'x float32':>12}")
    result = {}
    for name, values in seconds.items():
        result[name] = {
            "seconds_an_epoch": epoch * statistics.mean(values),
            "ratio_to_float32": ratios(seconds, name, f"{name.split(',')[0]}, 32-true"),
        }
        r = result[name]["ratio_to_float32"]
        print(
            f"{name:<24}{result[name]['seconds_an_epoch']:>12.1f}{r['median']:>12.2f}   {r['min']:.2f} to"
            f" {r['max']:.2f}"
        )
    settings = {k: v for k, v in vars(options).items() if k not in ("out", "data_path")}
    options.out.write_text(
        json.dumps({"settings": settings, "machine": machine(), "result": result, "seconds_by_turn": seconds}, indent=2)
        + "\n"
    )
    print(f"\n{', '.join(f'{k} {v}' for k, v in machine().items())}\nwritten to {options.out}")


if __name__ == "__main__":
    main()
