"""The table at the end of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

NONE = "-"


def table(metrics: Mapping[str, Any], folder: str, more: Sequence[str] = ()) -> str:
    """Scores of teacher and student, sizes, speed, time; the finding of corrupted rows, where there are any; and
    ``more`` lines.
    """
    rows = [*scored(metrics), *costs(metrics["cost"])]
    lines = [title_of(metrics), "", *columns([("", "teacher", "student"), *rows])]
    for name, areas in metrics.get("corruption", {}).items():
        lines += [
            "",
            f"area under the ROC curve for {name}: "
            + ", ".join(f"{score} {value:.3f}" for score, value in areas.items()),
        ]
    return "\n".join([*lines, *more, "", f"results in {folder}"])


def title_of(metrics: Mapping[str, Any]) -> str:
    """A run in a few words."""
    return f"task={metrics['task']} weighting={metrics['weighting']} seed={metrics['seed']}"


def scored(metrics: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, the teacher's and the student's, of each score; a dash for a split of which the teacher says nothing."""
    return [
        (f"{split} {name}", number(theirs[name]) if name in theirs else NONE, number(value))
        for split, scores in metrics["student"].items()
        for theirs in [metrics["teacher"].get(split, {})]
        for name, value in scores.items()
    ]


def costs(cost: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, the teacher's and the student's, of sizes, speed and time; dashes for a teacher that is no model."""
    seconds = f"{cost['train_seconds']:.0f} s"
    parameters, size = millions(cost["student_parameters"]), mebibytes(cost["student_bytes"])
    if cost["teacher_parameters"] is None:
        return [("parameters", NONE, parameters), ("size on disk", NONE, size), ("training", NONE, seconds)]
    taught = cost["teacher_seconds"]
    return [
        ("parameters", millions(cost["teacher_parameters"]), parameters),
        ("size on disk", mebibytes(cost["teacher_bytes"]), size),
        ("speed at inference", "1.0 x", f"{cost['speed_up']:.1f} x"),
        ("training", "from cache" if taught is None else f"{taught:.0f} s", seconds),
    ]


def millions(count: int) -> str:
    """A number of parameters."""
    return f"{count / 1e6:.1f} M" if count >= 1e7 else f"{count / 1e6:.2f} M"


def mebibytes(count: int) -> str:
    """A size on disk."""
    return f"{count / 2**20:.0f} MiB" if count >= 10 * 2**20 else f"{count / 2**20:.1f} MiB"


def number(value: float | None) -> str:
    """A score; NaN in a fresh result and None in one read back mean that it does not exist."""
    if value is None or math.isnan(value):
        return "undefined"
    return f"{value:.4f}" if abs(value) < 100 else f"{value:.1f}"


def columns(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows as aligned text; the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
