"""How often ``report --baseline`` finds a difference that is none: ``python -m benchmarks.report_errors``.

The scores of a pair of methods differ by a seed's own luck, a row's and both together, all of mean 0. The share of
trials with p < 0.05 should be 0.05.
"""

from __future__ import annotations

import argparse
import functools

import numpy as np

from rwkd_lightning.report.rows import Rows
from rwkd_lightning.report.statistics import difference, replicates

ROWS, ROW, BOTH = 100, 0.3, 0.3
SEED = {"rows alone": 0.0, "both alike": 0.03, "seeds far more": 0.3}
"""Standard deviation of a seed's luck; that of the mean over the rows is 0.03, and a little for both together."""


def mean_of(gains: np.ndarray, drawn: np.ndarray) -> float:
    """The score of drawn rows."""
    return float(gains[drawn].mean())


def share(seeds: int, spread: float, trials: int, draws: int) -> float:
    """The share of trials with p < 0.05."""
    random, found = np.random.default_rng(0), 0
    for trial in range(trials):
        gains = random.normal(0, spread, (seeds, 1)) + random.normal(0, ROW, (1, ROWS))
        gains = gains + random.normal(0, BOTH, (seeds, ROWS))
        runs = [(float(one.mean()), Rows("same", functools.partial(mean_of, one), ROWS)) for one in gains]
        drawn = replicates(runs, draws, seed=trial)
        found += difference(gains.mean(1), drawn, ROWS, seed=trial).p < 0.05
    return found / trials


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=400)
    options = parser.parse_args()
    print("seeds", *SEED, sep=" | ")
    for seeds in (1, 2, 3, 4, 5, 10):
        print(
            seeds,
            *(f"{share(seeds, x, options.trials, options.draws):.3f}" for x in SEED.values()),
            sep=" | ",
            flush=True,
        )
