"""The pictures of several settings: scores, differences, weights over the training and against difficulty, probes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rwkd_lightning.report.charts import Points, Strip, chart, strips
from rwkd_lightning.report.page import logged, section
from rwkd_lightning.report.runs import Setting, moments
from rwkd_lightning.report.table import Lines

PARTS = 10
"""Of the rows, by difficulty."""
MOST = 12
"""Settings whose weights are drawn, the best first."""
FOUND_BY = ("weight", "influence")
"""Beginnings of the scores of a row that should find what was corrupted."""


def sections(lines: Lines, names: Sequence[str], split: str) -> Iterator[str]:
    """The cards of a page, in their order."""
    settings = [setting for setting, _ in lines]
    metric = settings[0].runs[0].metric
    yield section(f"{metric} on {split}, with its spread", scores(settings, names, split), wide=True)
    if any(comparison for _, comparison in lines):
        yield section(f"Difference in {metric} to the baseline", differences(lines, names), wide=True)
    for flag, picture in separation(settings, names).items():
        yield section(f"Separation: {flag}", picture, wide=True)
    for setting, name in list(zip(settings, names, strict=True))[:MOST]:
        if picture := over_training(setting):
            yield section(f"Weights over the training: {name}", picture)
        if picture := against_difficulty(setting):
            yield section(f"Weight against difficulty: {name}", picture)


def scores(settings: Sequence[Setting], names: Sequence[str], split: str) -> str:
    """A dot for each seed, and mean and standard deviation."""
    rows = []
    for setting, name in zip(settings, names, strict=True):
        points = [run.scores.get(split, math.nan) for run in setting.runs]
        middle, deviation = moments(points)
        half = 0.0 if math.isnan(deviation) else deviation
        rows.append(Strip(name, points, middle, middle - half, middle + half))
    return strips(rows, "score") + "<p class=quiet>a dot for each seed; mean and one standard deviation</p>"


def differences(lines: Lines, names: Sequence[str]) -> str:
    """The difference and its interval, against 0."""
    rows = [
        Strip(name, [], one.of.mean, one.of.low, one.of.high)
        for name, (_, one) in zip(names, lines, strict=True)
        if one is not None and one.of is not None
    ]
    return strips(rows, "difference", 0.0) + "<p class=quiet>mean and interval of the bootstrap</p>"


def separation(settings: Sequence[Setting], names: Sequence[str]) -> dict[str, str]:
    """By probe, how well weights and influence find what was corrupted: areas under the ROC curve, a dot a seed."""
    found: dict[str, list[Strip]] = {}
    for setting, name in zip(settings, names, strict=True):
        areas: dict[tuple[str, str], list[float]] = {}
        for run in setting.runs:
            for flag, by in run.metrics.get("corruption", {}).items():
                for score, value in by.items():
                    if score.startswith(FOUND_BY) and value is not None:
                        areas.setdefault((flag, score), []).append(float(value))
        for (flag, score), values in areas.items():
            middle, deviation = moments(values)
            half = 0.0 if math.isnan(deviation) else deviation
            found.setdefault(flag, []).append(Strip(f"{name}: {score}", values, middle, middle - half, middle + half))
    below = (
        "<p class=quiet>area under the ROC curve; 1 finds all corrupted rows, 0.5 is chance; a dot for each seed</p>"
    )
    return {flag: strips(rows, "area", 0.5) + below for flag, rows in found.items()}


def over_training(setting: Setting) -> str:
    """The mean weight of each term by step, and its spread within the batch, both the mean over the seeds."""
    curves, bands = (
        {term: over_seeds([by_step(run.folder, kind).get(term, {}) for run in setting.runs]) for term in terms(setting)}
        for kind in ("weight/", "weight_spread/")
    )
    if not any(len(points) > 1 for points in curves.values()):
        return ""
    return (
        chart(curves, "step", "weight", bands)
        + "<p class=quiet>mean of the batch, and one standard deviation within it to each side; mean over the seeds</p>"
    )


def terms(setting: Setting) -> list[str]:
    """The loss terms of a setting's runs."""
    return [str(term) for term in setting.of("terms") or []]


def by_step(folder: Path, kind: str) -> dict[str, dict[float, float]]:
    """By term, then by step, what was logged under ``kind`` and its name."""
    found: dict[str, dict[float, float]] = {}
    for row in logged(folder / "log" / "metrics.csv"):
        for name, value in row.items():
            if name.startswith(kind):
                found.setdefault(name.removeprefix(kind), {})[row["step"]] = value
    return found


def over_seeds(curves: Sequence[Mapping[float, float]]) -> Points:
    """The mean at each step that all curves have."""
    steps = set.intersection(*(set(curve) for curve in curves)) if curves else set()
    return [(step, statistics.fmean(curve[step] for curve in curves)) for step in sorted(steps)]


def against_difficulty(setting: Setting) -> str:
    """The mean weight of each term in each tenth of the rows, from the smallest to the largest loss of the first term.

    The band is the standard deviation over the seeds.
    """
    named = terms(setting)
    found: dict[str, list[list[float]]] = {term: [] for term in named}
    for run in setting.runs:
        for term, means in tenths(run.folder / "weights.parquet", named).items():
            found[term].append(means)
    curves, bands = {}, {}
    for term, several in found.items():
        if several:
            both = [moments(part) for part in zip(*several, strict=True)]
            curves[term] = [((i + 0.5) / PARTS, middle) for i, (middle, _) in enumerate(both)]
            bands[term] = [((i + 0.5) / PARTS, 0.0 if math.isnan(sd) else sd) for i, (_, sd) in enumerate(both)]
    if not curves:
        return ""
    return (
        chart(curves, f"share of the rows with a smaller loss {named[0]}", "weight", bands)
        + "<p class=quiet>means of tenths of the rows, at their last visit; band: standard deviation over the seeds</p>"
    )


def tenths(file: Path, named: Sequence[str]) -> dict[str, list[float]]:
    """By term, its mean weight in each of ``PARTS`` equal parts of the rows; empty where there are too few rows."""
    import pyarrow.parquet

    if not named or not file.is_file():
        return {}
    wanted = [f"loss_{named[0]}", *(f"w_{term}" for term in named)]
    try:
        table: Any = pyarrow.parquet.read_table(file, columns=wanted)
        loss, *weights = (table[name].to_numpy().astype(float) for name in wanted)
    except (OSError, KeyError, ValueError, pyarrow.ArrowException):  # of a file that is not a run's
        return {}
    order = np.argsort(loss, kind="stable")[: int(np.isfinite(loss).sum())]  # NaN is last
    if len(order) < PARTS:
        return {}
    parts = np.array_split(order, PARTS)
    return {
        term: [float(np.nanmean(w[part])) if np.isfinite(w[part]).any() else math.nan for part in parts]
        for term, w in zip(named, weights, strict=True)
    }
