"""The map of topics as SVG: one circle per topic, sized by its share, similar topics close, each linked to its card."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, MARGIN = 960, 560, 40
INK = 0.07
"""Share of the map that all circles cover together."""

Box = tuple[float, float, float, float]


def topic_map(
    points: NDArray[np.floating[Any]], sizes: Sequence[float], captions: Sequence[str], hints: Sequence[str]
) -> str:
    """An ``<svg>`` of topics at ``points`` ``(K, 2)``, on the same scale in both directions.

    Numbers and captions are written where they cover no other, the largest topics' first; the hint shows on hover,
    always.
    """
    low, high = points.min(0), points.max(0)
    room = np.array([WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN])
    scale = (room / np.maximum(high - low, 1e-9)).min()
    centres = (points - (low + high) / 2) * scale * [1, -1] + [WIDTH / 2, HEIGHT / 2]
    radii = np.sqrt(INK * WIDTH * HEIGHT / np.pi * np.asarray(sizes, float))
    circles = [(x - r, y - r, x + r, y + r) for (x, y), r in zip(centres, radii, strict=True)]
    by_size = np.argsort(-radii, kind="stable").tolist()
    links = [f'<a href="#topic-{k}"><title>{escape(hint)}</title>' for k, hint in enumerate(hints)]
    drawn = [
        f'{links[k]}<circle cx="{centres[k][0]:.1f}" cy="{centres[k][1]:.1f}" r="{radii[k]:.1f}"/></a>' for k in by_size
    ]
    taken: list[Box] = []
    for k in by_size:
        x, y = centres[k]
        if free(number := (x - 8, y - 6, x + 8, y + 6), taken):
            taken.append(number)
            drawn.append(
                f'{links[k]}<text class="number" x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle">{k}</text></a>'
            )
    for k in by_size:
        x, y = centres[k]
        places = beside(x, y, max(radii[k], 9), 6.2 * len(captions[k]))
        others = [circle for j, circle in enumerate(circles) if j != k]
        best = [place for place in places if free(place, taken + others)] or [
            place for place in places if free(place, taken)
        ]
        if best:
            taken.append(best[0])
            drawn.append(
                f'{links[k]}<text x="{best[0][0]:.1f}" y="{best[0][3] - 3:.1f}">{escape(captions[k])}</text></a>'
            )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Map of the topics">\n'
        + "\n".join(drawn)
        + "\n</svg>"
    )


def beside(x: float, y: float, r: float, width: float) -> list[Box]:
    """Places for a caption right, left, below and above of a circle, those within the map."""
    corners = (
        (x + r + 3, y - 6.5),
        (x - r - 3 - width, y - 6.5),
        (x - width / 2, y + r + 1),
        (x - width / 2, y - r - 14),
    )
    return [
        (left, top, left + width, top + 13)
        for left, top in corners
        if 2 <= left <= WIDTH - width - 2 and 2 <= top <= HEIGHT - 15
    ]


def free(box: Box, taken: Sequence[Box]) -> bool:
    """Whether it covers none of the others."""
    return not any(
        box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3] for other in taken
    )
