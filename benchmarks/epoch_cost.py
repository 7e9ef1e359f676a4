"""An epoch of the shipped ``rwkd``, a meta step every step and the bank's first fill, as a multiple of an epoch of
``kd``.

    python benchmarks/epoch_cost.py [--task tweets --layers 3] [--data-path DIR]

Both go through the whole first epoch of real rows, in the loader's order and in turns of a few batches. (A run as
shipped takes no meta step in the first fifth of its training, so all in all it costs less than this.)
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from real import Rows
from step_cost import BATCH, DEFAULT, build, kinds
from timing import REFRESH, in_turns, machine, quiet, train

VISIT = 8  # batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--task", default="tweets", help="tweets, or a GLUE task")
    parser.add_argument("--data-path", help="directory of GLUE's Parquet files; without it the hub's")
    parser.add_argument("--layers", type=int, default=3, help="transformer blocks of the student (1 to 6)")
    parser.add_argument("--out", type=Path, default=Path("epoch_cost.json"), help="JSON file to write")
    options = parser.parse_args()
    quiet()
    rows = Rows(options.task, options.data_path, BATCH, REFRESH)
    turns = len(rows.batches) // VISIT
    modules = {
        name: build(kinds(rows)[kind], rows.student(options.layers), rows.size)
        for name, kind in (("kd", "kd"), ("rwkd", DEFAULT))
    }
    visits = {
        name: lambda turn, m=module: train(m, rows.batches, turn * VISIT, VISIT) for name, module in modules.items()
    }
    seconds = in_turns(visits, turns, sum)
    meta = modules["rwkd"].meta
    assert meta is not None
    total = {name: sum(values) for name, values in seconds.items()}
    ratio, by_turn = total["rwkd"] / total["kd"], [b / a for a, b in zip(seconds["kd"], seconds["rwkd"], strict=True)]
    later = statistics.median(by_turn[1:])
    print(
        f"\n{options.task}, {options.layers} blocks, {turns * VISIT} steps, {meta.steps} meta steps, bank of"
        f" {len(meta.stream)}: kd {total['kd']:.1f} s, rwkd {total['rwkd']:.1f} s, ratio {ratio:.3f}\nturns after the"
        f" first, which fills the bank: median {later:.3f}, {min(by_turn[1:]):.3f} to {max(by_turn[1:]):.3f}"
    )
    result = {
        "task": options.task,
        "layers": options.layers,
        "steps": turns * VISIT,
        "meta_steps": meta.steps,
        "ratio": ratio,
        "median_of_later_turns": later,
        "machine": machine(),
        "seconds_by_turn": seconds,
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\n{', '.join(f'{k} {v}' for k, v in machine().items())}\nwritten to {options.out}")


if __name__ == "__main__":
    main()
