"""The table at the end of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def table(metrics: Mapping[str, Any], folder: str, more: Sequence[str] = ()) -> str:
    """Scores of teacher and student, sizes, speed, time; the finding of corrupted rows, where there are any; and
    ``more`` lines.
    """
    cost = metrics["cost"]
    rows = [
        (f"{split} {name}", number(metrics["teacher"][split][name]), number(value))
        for split, scores in metrics["student"].items()
        for name, value in scores.items()
    ]
    rows += [
        ("parameters", millions(cost["teacher_parameters"]), millions(cost["student_parameters"])),
        ("size on disk", mebibytes(cost["teacher_bytes"]), mebibytes(cost["student_bytes"])),
        ("speed at inference", "1.0 x", f"{cost['speed_up']:.1f} x"),
        (
            "training",
            "from cache" if cost["teacher_seconds"] is None else f"{cost['teacher_seconds']:.0f} s",
            f"{cost['train_seconds']:.0f} s",
        ),
    ]
    title = f"task={metrics['task']} weighting={metrics['weighting']} seed={metrics['seed']}"
    lines = [title, "", *columns([("", "teacher", "student"), *rows])]
    for name, areas in metrics.get("corruption", {}).items():
        lines += [
            "",
            f"area under the ROC curve for {name}: "
            + ", ".join(f"{score} {value:.3f}" for score, value in areas.items()),
        ]
    return "\n".join([*lines, *more, "", f"results in {folder}"])


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
