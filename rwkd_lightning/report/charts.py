"""Curves and clouds of points as SVG, which any browser draws without a script."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Points = Sequence[tuple[float, float]]
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 560, 250, 46, 12, 10, 34
STRIPS, NAMES, STRIP, LETTERS = 1120, 330, 24, 52
"""Of `strips`: width, room for the names, height of one, letters of a name."""
KINDS = 5
"""Colours of series, in the classes ``s0`` to ``s4``."""


def chart(series: Mapping[str, Points], x: str, y: str, bands: Mapping[str, Points] | None = None) -> str:
    """Curves of each series, with its legend; a series without two finite points is left out.

    Args:
        x, y: what the axes show.
        bands: by series, the half width of a band around it, at the same places.
    """
    known = {name: [(a, b) for a, b in points if math.isfinite(b)] for name, points in series.items()}
    known = {name: points for name, points in known.items() if len(points) > 1}
    widths = {name: dict(points) for name, points in (bands or {}).items()}
    if not known:
        return "<p class=quiet>nothing to draw</p>"
    heights = [b + s * widths.get(n, {}).get(a, 0.0) for n, points in known.items() for a, b in points for s in (-1, 1)]
    frame = Frame([a for points in known.values() for a, _ in points], [h for h in heights if math.isfinite(h)])
    drawn = []
    for number, (name, points) in enumerate(known.items()):
        kind = f"s{number % KINDS}"
        if name in widths:
            half = [(a, b, w) for a, b in points if math.isfinite(w := widths[name].get(a, math.nan))]
            edge = [frame.at(a, b + w) for a, b, w in half] + [frame.at(a, b - w) for a, b, w in reversed(half)]
            drawn.append(f'<polygon class="{kind}" points="{" ".join(edge)}"/>')
        drawn.append(f'<polyline class="{kind}" points="{" ".join(frame.at(a, b) for a, b in points)}"/>')
    return frame.svg(drawn, x, y) + legend(list(known))


def cloud(series: Mapping[str, Points], x: str, y: str) -> str:
    """Points of each series, with its legend; those that are not finite are left out."""
    known = {
        name: [(a, b) for a, b in points if math.isfinite(a) and math.isfinite(b)] for name, points in series.items()
    }
    known = {name: points for name, points in known.items() if points}
    if not known:
        return "<p class=quiet>nothing to draw</p>"
    frame = Frame([a for p in known.values() for a, _ in p], [b for p in known.values() for _, b in p])
    drawn = []
    for number, points in enumerate(known.values()):
        dots = "".join(f"M{frame.at(a, b)}h0" for a, b in points)
        drawn.append(f'<path class="s{number % KINDS}" d="{dots}"/>')
    return frame.svg(drawn, x, y) + legend(list(known))


@dataclass(frozen=True)
class Strip:
    """One line of `strips`: points, and a bar from ``low`` to ``high`` with a mark in the middle."""

    name: str
    points: Sequence[float]
    middle: float
    low: float
    high: float


def strips(rows: Sequence[Strip], x: str, line: float | None = None) -> str:
    """Lines below each other on one axis, each with its name; those without a middle are left out.

    Args:
        x: what the axis shows.
        line: a place to compare with.
    """
    rows = [row for row in rows if math.isfinite(row.middle)]
    if not rows:
        return "<p class=quiet>nothing to draw</p>"
    numbers = [n for row in rows for n in (*row.points, row.middle, row.low, row.high) if math.isfinite(n)]
    low, high = span([*numbers, *([] if line is None else [line])])
    height = STRIP * len(rows) + TOP + BOTTOM

    def at(value: float) -> str:
        return f"{NAMES + (value - low) / (high - low) * (STRIPS - NAMES - RIGHT):.1f}"

    parts = []
    for value in ticks(low, high):
        parts.append(f'<line x1="{at(value)}" x2="{at(value)}" y1="{TOP}" y2="{height - BOTTOM}"/>')
        parts.append(f'<text class=across x="{at(value)}" y="{height - BOTTOM + 15}">{value:g}</text>')
    if line is not None:
        parts.append(f'<line class=compared x1="{at(line)}" x2="{at(line)}" y1="{TOP}" y2="{height - BOTTOM}"/>')
    for number, row in enumerate(rows):
        y = TOP + STRIP * (number + 0.5)
        shown = row.name if len(row.name) <= LETTERS else f"{row.name[: LETTERS - 1]}…"
        title = f"<title>{html.escape(row.name)}</title>"
        parts.append(f'<text class=up x="{NAMES - 8}" y="{y + 4:.1f}">{html.escape(shown)}{title}</text>')
        dots = "".join(f"M{at(value)},{y - 4:.1f}h0" for value in row.points if math.isfinite(value))
        parts.append(f'<path class="s0" d="{dots}"/>')
        if math.isfinite(row.low) and math.isfinite(row.high):
            parts.append(
                f'<line class="s1 bar" x1="{at(row.low)}" x2="{at(row.high)}" y1="{y + 4:.1f}" y2="{y + 4:.1f}"/>'
            )
        middle = f'x1="{at(row.middle)}" x2="{at(row.middle)}" y1="{y:.1f}" y2="{y + 8:.1f}"'
        parts.append(f'<line class="s1 bar" {middle}/>')
    parts.append(f'<text class=name x="{STRIPS - RIGHT}" y="{height - 4}">{html.escape(x)}</text>')
    label = html.escape(f"{x} by setting")
    return f'<svg viewBox="0 0 {STRIPS} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def legend(names: Sequence[str]) -> str:
    """The names in their colours."""
    marks = "".join(f'<span class="s{i % KINDS}">{html.escape(name)}</span>' for i, name in enumerate(names))
    return f"<p class=legend>{marks}</p>"


class Frame:
    """Axes around points: from numbers to places in the picture.

    Args:
        across, up: all numbers on each axis.
    """

    def __init__(self, across: Sequence[float], up: Sequence[float]) -> None:
        self.x, self.y = span(across), span(up)

    def at(self, a: float, b: float) -> str:
        """``x,y`` of a point."""
        (left, right), (low, high) = self.x, self.y
        x = LEFT + (a - left) / (right - left) * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - (b - low) / (high - low) * (HEIGHT - TOP - BOTTOM)
        return f"{x:.1f},{y:.1f}"

    def svg(self, drawn: Sequence[str], x: str, y: str) -> str:
        """The picture, with ticks and the names of the axes."""
        parts = []
        for value in ticks(*self.y):
            place = self.at(self.x[0], value).split(",")[1]
            parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place}" y2="{place}"/>')
            parts.append(f'<text class=up x="{LEFT - 6}" y="{float(place) + 4:.1f}">{value:g}</text>')
        for value in ticks(*self.x):
            place = self.at(value, self.y[0]).split(",")[0]
            parts.append(f'<text class=across x="{place}" y="{HEIGHT - BOTTOM + 15}">{value:g}</text>')
        parts.append(f'<text class=name x="{WIDTH - RIGHT}" y="{HEIGHT - 4}">{html.escape(x)}</text>')
        label = html.escape(f"{y} against {x}")
        return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join([*parts, *drawn])}</svg>'


def span(values: Sequence[float]) -> tuple[float, float]:
    """The range of the values, widened where it is empty."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = (high - low) * 0.04
    return (low - room, high + room) if high > low else (low - 0.5, high + 0.5)


def ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers within the range."""
    step = 10 ** math.floor(math.log10(high - low))
    step = next(step * part for part in (1, 0.5, 0.2) if (high - low) / (step * part) >= 3)
    first = math.ceil(low / step)
    return [round(number * step, 10) for number in range(first, math.floor(high / step) + 1)]
