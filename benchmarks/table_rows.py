"""Reading, cutting and summarising a table of a million rows: ``python benchmarks/table_rows.py [--rows N]``.

Prints the seconds of a processor and the peak of memory of `load_table` on a CSV file of random words, where one row in
ten repeats an earlier one but for a word. With ``--near-copies 0`` for comparison.
"""

from __future__ import annotations

import argparse
import random
import resource
import tempfile
import time
from pathlib import Path


def main() -> None:
    """Write the file, read it, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--near-copies", type=float, default=0.8, help="0: equal texts alone are kept together")
    options = parser.parse_args()
    from rwkd_lightning.systems.text.data.table import load_table

    draw = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(draw.choices(letters, k=draw.randint(3, 11))) for _ in range(20_000)]
    recent: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows.csv")
        with file.open("w") as out:
            out.write("text,label\n")
            for row in range(options.rows):
                text = list(draw.choice(recent)) if row % 10 == 9 else draw.choices(words, k=20)
                text[draw.randrange(20)] = draw.choice(words)
                recent = [*recent[-99:], text]
                out.write(f"{' '.join(text)},{draw.randrange(5)}\n")
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        data = load_table(str(file), "text", near_copies=options.near_copies or None)
        seconds, peak = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        size = file.stat().st_size
    rows = {name: len(split) for name, split in data.splits.items()}
    print(f"{options.rows:,} rows, {size / 2**20:.0f} MiB: {seconds:.0f} s, {(peak - before) / 2**20:.1f} GiB; {rows}")


if __name__ == "__main__":
    main()
