"""Runs in TREC's format, which other tools score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor


def write_run(
    path: Path, queries: Sequence[str], ids: Sequence[str], ranked: Sequence[Sequence[int]], scores: Tensor
) -> None:
    """A line for each ranked document: query, Q0, document, rank, score of ``(Q, D)``, and who says so."""
    with path.open("w", encoding="utf-8") as file:
        for row, (query, places) in enumerate(zip(queries, ranked, strict=True)):
            for rank, place in enumerate(places, 1):
                file.write(f"{query} Q0 {ids[place]} {rank} {float(scores[row, place]):.6f} student\n")
