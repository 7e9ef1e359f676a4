"""One job, plain knowledge distillation on MRPC, by this library and by torchdistill and TextBrewer in their own loops.

    python -m venv peers && peers/bin/pip install -e ".[offline]" -r benchmarks/peers/requirements_kd.txt
    peers/bin/python benchmarks/peers/kd.py --data-path GLUE_DIR --teacher DIR [--rows kd --epochs 3 --out
    peers_kd.json]

The same for all: a fine-tuned teacher (DIR, a folder with its head), all-MiniLM-L6-v2 as student, the training rows
(nine tenths of MRPC's), half cross-entropy and half T²·KL with T = 2, batches of 32, at most 128 tokens, fused AdamW
(1e-4, decay 0.01), a linear schedule with a tenth of warm-up, clipping at 1, float32 on the CPU, the threads. Their
tokenizers differ. What differs is the library: its loop, how it pads and orders rows by default, how it keeps the
teacher's logits. ``loader`` hands it this library's batches of rows of similar length, ``cache`` switches on its own
cache of the teacher's logits, ``all`` both.

Each row is a process of its own, one after the other. Seconds are those of the whole job, from texts and loaded models
to the trained student: tokenization, the teacher's passes (ours: its logits of the training rows, the model loaded once
more), training. Scoring is not counted; it is the same code for all. Before it trains, each peer's gradient of one
batch is compared with ours.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PEERS = ("torchdistill", "textbrewer")
SETTINGS = {"": "defaults", ":cache": "its cache", ":loader": "our loader", ":all": "its cache, our loader"}
ROWS = {
    **{peer + setting: text for setting, text in SETTINGS.items() for peer in PEERS},
    "kd": "defaults",
    "rwkd": "defaults",
}


def start(row: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one row in a process of its own."""
    threads = {name: str(options.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")}
    path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    arguments = {
        name: getattr(options, name) for name in ("data_path", "teacher", "epochs", "seed", "limit", "threads")
    }
    done = subprocess.run(
        [sys.executable, str(HERE / "kd_row.py"), json.dumps({"row": row, **arguments})],
        text=True,
        stdout=subprocess.PIPE,
        env={**os.environ, **threads, "PYTHONPATH": path},
    )
    if done.returncode:
        raise SystemExit(f"{row} failed, as told above; --rows leaves it out")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(found: dict[str, dict[str, Any]]) -> str:
    """A line a row, with its time as a multiple of the fastest peer's: of those with defaults, and of all."""
    seconds = {row: result["seconds"] for row, result in found.items()}
    peers = {row: value for row, value in seconds.items() if row.partition(":")[0] in PEERS}
    bases = [
        min((value for row, value in peers.items() if row in rows), default=float("nan")) for rows in (PEERS, ROWS)
    ]
    lines = [
        f"{'':<14}{'setting':<24}{'seconds':>9}{'an epoch':>10}{'x defaults':>12}{'x fastest':>11}"
        f"{'F1':>8}{'accuracy':>10}"
    ]
    for row, result in found.items():
        name = row.partition(":")[0]
        ratios = [seconds[row] / base for base in bases]
        lines.append(
            f"{name if name in PEERS else 'ours: ' + name:<14}{ROWS[row]:<24}{seconds[row]:>9.1f}"
            f"{result['seconds_per_epoch']:>10.1f}{ratios[0]:>12.2f}{ratios[1]:>11.2f}{result['f1']:>8.3f}"
            f"{result['accuracy']:>10.3f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument(
        "--data-path", required=True, help="a directory with mrpc/train-*.parquet and so on, as nyu-mll/glue"
    )
    parser.add_argument("--teacher", required=True, help="a folder with a classifier that is fine-tuned on MRPC")
    parser.add_argument(
        "--rows", nargs="*", choices=ROWS, default=list(ROWS), metavar="ROW", help=f"of {', '.join(ROWS)}"
    )
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="only so many training rows, to try it out")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path("peers_kd.json"), help="JSON file to write")
    options = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    for row in options.rows:
        print(f"{row} ...", file=sys.stderr, flush=True)
        found[row] = start(row, options)
        settings = {name: value for name, value in vars(options).items() if name not in ("out", "data_path", "teacher")}
        options.out.write_text(json.dumps({"settings": settings, "rows": found}, indent=2) + "\n")
    machine = next(iter(found.values()))["machine"]
    print(
        f"\n{table(found)}\n\nan epoch: without what came before the student's first step\n"
        "x defaults, x fastest: of the fastest peer with its defaults, and with whatever it was given\n"
        f"{', '.join(f'{k} {v}' for k, v in machine.items())}\nwritten to {options.out}"
    )


if __name__ == "__main__":
    main()
