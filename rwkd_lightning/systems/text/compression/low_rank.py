"""The best approximation of a table of a given rank, where its rows count differently."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def axes(table: Array, weights: Array) -> tuple[Array, Array]:
    """Directions ``(d, d)``, the most important first, and what each explains of the weighted square ``(d,)``.

    min Σ_w p_w·‖a_w − B·u_w‖² over U ``(V, r)`` and B ``(d, r)`` is reached by the r leading eigenvectors B of
    Aᵀ·diag(p)·A and U = A·B; what is left is the sum of the other eigenvalues. No row is divided by √p, so a weight may
    be 0.

    Args:
        table: A, ``(V, d)``.
        weights: p, ``(V,)``, 0 or above.
    """
    values, vectors = np.linalg.eigh((table * weights[:, None]).T @ table)
    return np.ascontiguousarray(vectors[:, ::-1]), np.maximum(values[::-1], 0.0)


def factors(table: Array, directions: Array, rank: int) -> tuple[Array, Array]:
    """U ``(V, r)`` and B ``(d, r)``; B is orthonormal, so U is the best one for it, whatever the weights."""
    maps = directions[:, :rank]
    return table @ maps, maps


def balanced(rows: Array, maps: Array) -> tuple[Array, Array]:
    """The same product with columns of U and B of equal length, so that one learning rate suits both."""
    lengths = np.linalg.norm(rows, axis=0)
    scale = np.sqrt(np.where(lengths > 0, lengths, 1.0))
    return rows / scale, maps * scale
