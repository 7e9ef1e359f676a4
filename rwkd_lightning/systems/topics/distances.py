"""Distances between topics, a map of them, and which of the teacher's topics belongs to which of the student's."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkd_lightning.systems.topics.needs import needed

Array = NDArray[np.floating[Any]]


def hellinger(p: Array, q: Array) -> Array:
    """Hellinger distances ``(K, L)`` of word distributions ``(K, V)`` and ``(L, V)``: 0 for equal ones, 1 for disjoint
    ones.
    """
    overlap = np.sqrt(p.astype(float)) @ np.sqrt(q.astype(float)).T
    distances: Array = np.sqrt(np.clip(1 - overlap, 0, 1))
    return distances


def plane(distances: Array) -> tuple[Array, float]:
    """Points ``(K, 2)`` by classical multidimensional scaling of ``(K, K)``, and the share of squared distances kept.

    Axes point to where their farthest point lies, so the map is the same on every machine.
    """
    squared = distances.astype(float) ** 2
    centred = -0.5 * (squared - squared.mean(0) - squared.mean(1)[:, None] + squared.mean())
    values, vectors = np.linalg.eigh(centred)
    values, vectors = np.clip(values[::-1], 0, None), vectors[:, ::-1]
    if values.sum() < 1e-12:
        return np.zeros((len(distances), 2)), 1.0
    points = np.zeros((len(distances), 2))
    for axis, (value, vector) in enumerate(zip(values[:2], vectors.T[:2], strict=True)):
        points[:, axis] = vector * np.sign(vector[np.abs(vector).argmax()]) * np.sqrt(value)
    return points, float(values[:2].sum() / values.sum())


def matches(distances: Array) -> list[int | None]:
    """For each row of ``(K, L)`` its column in the one-to-one assignment of the smallest sum; None for rows too
    many.
    """
    rows, columns = needed("scipy.optimize").linear_sum_assignment(distances)
    found = dict(zip(rows.tolist(), columns.tolist(), strict=True))
    return [found.get(row) for row in range(len(distances))]
