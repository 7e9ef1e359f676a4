"""Rows that must stay together."""

from __future__ import annotations

from collections.abc import Sequence


def joined(*keys: Sequence[object]) -> list[int]:
    """A number for each row ``(N,)``: rows that share a value of one of the keys, or are linked by others that do, have
    the same. None shares nothing.
    """
    parent = list(range(len(keys[0])))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for key in keys:
        first: dict[object, int] = {}
        for row, value in enumerate(key):
            if value is not None:
                parent[root(row)] = root(first.setdefault(value, row))
    return [root(i) for i in range(len(parent))]
