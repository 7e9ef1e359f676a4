"""Reading, cutting and summarising a table of a million rows: ``python benchmarks/table_rows.py [--rows N]``.

Prints the seconds and the peak of memory of `load_table` on a CSV file of random words.
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
    options = parser.parse_args()
    from rwkd_lightning.systems.text.data.table import load_table

    draw = random.Random(0)
    words = [f"word{i}" for i in range(20_000)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows.csv")
        with file.open("w") as out:
            out.write("text,label\n")
            for _ in range(options.rows):
                out.write(f"{' '.join(draw.choices(words, k=20))},{draw.randrange(5)}\n")
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        data = load_table(str(file), "text")
        seconds, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        size = file.stat().st_size
    rows = {name: len(split) for name, split in data.splits.items()}
    print(f"{options.rows:,} rows, {size / 2**20:.0f} MiB: {seconds:.0f} s, {(peak - before) / 2**20:.1f} GiB; {rows}")


if __name__ == "__main__":
    main()
