"""Is a difference between two methods more than luck of seeds and of test rows? A bootstrap over both, and Holm's step.

The score of a method is the mean over its seeds, each of which is scored on the same N test rows. A replicate draws N
rows and S seeds with replacement. The rows are drawn once for both methods and for all seeds that share them (the
pigeonhole bootstrap: Owen, *Annals of Applied Statistics* 1, 2007): drawing them again for each seed would treat the
same row as S independent ones. Seeds are drawn as pairs of runs, one of each method.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rwkd_lightning.report.rows import Array, Rows

LEVEL = 0.95
FEW = 5
"""Seeds below which the interval is too narrow by far where the seeds differ more than the rows do."""


@dataclass(frozen=True)
class Difference:
    """How much larger a mean score is than another one's, with its interval."""

    mean: float
    low: float
    """NaN, as ``high`` and ``p``, where there is nothing to draw: one seed and no rows."""
    high: float
    p: float
    """Two-sided: 2 (1 + b) / (1 + B) for b of the B replicates on the other side of 0."""
    seeds: int
    """Pairs of runs."""
    rows: int
    """Test rows of a seed; 0 where none were drawn."""


def replicates(runs: Sequence[tuple[float, Rows | None]], draws: int, seed: int = 0) -> Array:
    """The score of each run on each drawing of rows, ``(draws, runs)``; those with the same rows share the drawing.

    Args:
        runs: its score on all rows, and the rows; where there are none, the score is repeated.
    """
    found = np.empty((draws, len(runs)))
    shared: dict[str, list[tuple[int, Rows]]] = {}
    for place, (score, rows) in enumerate(runs):
        if rows is None:
            found[:, place] = score
        else:
            shared.setdefault(rows.identity, []).append((place, rows))
    for number, several in enumerate(shared.values()):
        random, size = np.random.default_rng([seed, number]), several[0][1].size
        for draw in range(draws):
            drawn = random.integers(size, size=size)
            for place, rows in several:
                found[draw, place] = rows.score(drawn)
    return found


def difference(scores: Array, drawn: Array, rows: int, seed: int = 0) -> Difference:
    """Mean, percentile interval and p of paired differences.

    Args:
        scores: of S pairs of runs, one's score less the other's, ``(S,)``.
        drawn: the same for each drawing of rows, ``(draws, S)``; drawings with a score that does not exist are left
            out.
        rows: how many were drawn.
    """
    seeds, mean = len(scores), float(scores.mean())
    if seeds == 1 and not rows:
        return Difference(mean, math.nan, math.nan, math.nan, seeds, rows)
    picked = np.random.default_rng([seed, seeds]).integers(seeds, size=(len(drawn), seeds))
    means = np.take_along_axis(drawn, picked, axis=1).mean(1)
    means = means[np.isfinite(means)]
    if not len(means) or math.isnan(mean):
        return Difference(mean, math.nan, math.nan, math.nan, seeds, rows)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    beyond = 1 + min(int((means <= 0).sum()), int((means >= 0).sum()))
    return Difference(mean, float(low), float(high), min(1.0, 2 * beyond / (len(means) + 1)), seeds, rows)


def holm(values: Mapping[str, float]) -> dict[str, float]:
    """p-values of one family, corrected so that the chance of any false finding is kept (Holm 1979).

    The smallest is multiplied by their number, the next by one less, and so on; none falls below one before it. NaN,
    where nothing was tested, stays and does not count.
    """
    tested = sorted((p, name) for name, p in values.items() if not math.isnan(p))
    found, least = dict(values), 0.0
    for place, (p, name) in enumerate(tested):
        least = found[name] = max(least, min(1.0, p * (len(tested) - place)))
    return found
