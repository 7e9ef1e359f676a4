"""``python -m tests.hostile --examples 10000``: hostile inputs by the thousand, each kind's share with its counts.

A failure is shrunk and written to a file, which ``python -m tests.hostile --again FILE`` tries anew.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import logging
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.hostile import configs, files, glue, tweets

KINDS: dict[str, tuple[ModuleType, int]] = {
    "tweets": (tweets, 25),
    "glue": (glue, 30),
    "configs": (configs, 35),
    "files": (files, 10),
}
"""Each kind with its share in percent."""
BATCH = 200


def batch(kind: ModuleType, examples: int, number: int, counts: Counter[str]) -> tuple[Any, str] | None:
    """Try examples; the smallest one that fails, with its traceback, or None."""
    last: list[Any] = [None]

    @seed(number)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
        print_blob=False,
    )
    @given(kind.strategy)
    def attempt(example: Any) -> None:
        last[0] = example
        counts[kind.check(example)] += 1

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            attempt()
    except Exception:  # Hypothesis tries the smallest example last
        return last[0], traceback.format_exc()
    return None


def main() -> int:
    """Run the command line; 1 where something failed."""
    parser = argparse.ArgumentParser("python -m tests.hostile")
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--kind", choices=KINDS, action="append", help="only this kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--failures", type=Path, default=Path("hostile-failures"), help="where failures are written")
    parser.add_argument("--again", type=Path, help="try the example of this file")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    if options.again:
        name, example = ast.literal_eval(options.again.read_text().splitlines()[0])
        print(KINDS[name][0].check(example))
        return 0
    chosen = {name: KINDS[name] for name in options.kind or KINDS}
    failed = 0
    for name, (kind, share) in chosen.items():
        wanted = round(options.examples * share / sum(share for _, share in chosen.values()))
        counts: Counter[str] = Counter()
        start, done = time.perf_counter(), 0
        while done < wanted:
            size = min(BATCH, wanted - done)
            found = batch(kind, size, options.seed + done, counts)
            done += size
            if found:
                failed += 1
                options.failures.mkdir(exist_ok=True)
                file = options.failures / f"{name}-{options.seed + done}.txt"
                file.write_text(f"{(name, found[0])!r}\n\n{found[1]}", errors="backslashreplace")
                print(f"{name}: FAILED {found[0]!r} -> {file}: {found[1].strip().splitlines()[-1][:300]}", flush=True)
            print(
                f"{name}: {done} of {wanted}, {dict(counts)}, {time.perf_counter() - start:.0f} s",
                file=sys.stderr,
                flush=True,
            )
        print(f"{name}: {dict(counts)} in {time.perf_counter() - start:.0f} s", flush=True)
    print(f"{failed} batches with a failure")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
