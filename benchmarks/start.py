"""How long ``python train.py`` takes to its first training step when teacher, logits and tokens are in the cache.

    python benchmarks/start.py [--runs 5] [OVERRIDES ...]

The first run, not counted, fills the cache. Each further one is a process of its own, ended after its first step; wall
seconds from its start to: lightning imported, the command line checked and the config composed, the first batch at the
module, the first step done.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TRAIN = Path(__file__).parents[1] / "train.py"
STARTED, TOLD = "START_SECONDS", "START_TOLD"


def child(overrides: list[str]) -> None:
    """Run ``train.py`` to the end of its first step of the student, and write down when it got where."""
    seconds: dict[str, float] = {}

    def mark(name: str) -> None:
        seconds[name] = time.time() - float(os.environ[STARTED])

    import lightning

    mark("lightning imported")

    class First(lightning.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            mark("first batch")

        def on_train_batch_end(self, *_: Any) -> None:
            mark("first step done")
            Path(os.environ[TOLD]).write_text(json.dumps(seconds))
            os._exit(0)

    made = lightning.Trainer.__init__

    def with_callback(self: lightning.Trainer, *args: Any, callbacks: Any = (), **options: Any) -> None:
        made(self, *args, callbacks=[*callbacks, First()], **options)

    lightning.Trainer.__init__ = with_callback  # type: ignore[method-assign]
    from rwkd_lightning.run import runner as run

    carry_out = run.run

    def composed(*args: Any) -> Any:
        mark("config composed and checked")
        return carry_out(*args)

    run.run = composed
    sys.argv = [str(TRAIN), *overrides]
    runpy.run_path(str(TRAIN), run_name="__main__")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--runs", type=int, default=5, help="counted runs")
    parser.add_argument("--out", type=Path, default=Path("start.json"), help="JSON file to write")
    options, overrides = parser.parse_known_args()
    measured: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, str(TRAIN), f"runs_dir={folder}/fill", "trainer.max_steps=1", *overrides], check=True
        )
        for number in range(options.runs):
            told = Path(folder) / f"{number}.json"
            environment = {**os.environ, STARTED: str(time.time()), TOLD: str(told)}
            subprocess.run(
                [sys.executable, __file__, f"runs_dir={folder}/{number}", *overrides],
                env=environment,
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            measured.append(json.loads(told.read_text()))
    print(f"\n{'seconds from the start to':<32}{'median':>8}   smallest and largest of {options.runs}")
    for name in measured[0]:
        values = [seconds[name] for seconds in measured]
        print(f"{name:<32}{statistics.median(values):>8.1f}   {min(values):.1f} to {max(values):.1f}")
    from timing import machine

    options.out.write_text(
        json.dumps({"overrides": overrides, "machine": machine(), "seconds": measured}, indent=2) + "\n"
    )
    print(f"\n{', '.join(f'{k} {v}' for k, v in machine().items())}\nwritten to {options.out}")


if __name__ == "__main__":
    if STARTED in os.environ:
        child(sys.argv[1:])
    else:
        main()
