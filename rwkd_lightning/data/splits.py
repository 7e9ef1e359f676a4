"""Cutting the meta split, and others, out of the training rows."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from rwkd_lightning.utils.errors import UserError

_STREAM = 11  # keeps this use of a seed apart from the others that start from the same number


def stratified_group_split(
    groups: Sequence[Hashable], labels: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cut N rows into (rest, held-out) row numbers, stratified by label `(N,)`, without tearing a group apart.

    A class with two or more groups has a row in the held-out part. UserError for a fraction outside (0, 0.5].
    """
    if not 0 < fraction <= 0.5:
        raise UserError(f"data.meta_fraction is {fraction}; give a number above 0 and up to 0.5")
    labels = np.asarray(labels)
    if len(groups) != len(labels):
        raise ValueError(f"{len(groups)} groups for {len(labels)} labels")

    members: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    groups_of: dict[object, list[Hashable]] = {label: [] for label in np.unique(labels).tolist()}
    for group, rows in members.items():
        groups_of[labels[rows[0]].item()].append(group)  # a group with mixed labels counts for its first row's

    rng = np.random.default_rng([seed, _STREAM])
    held: list[Hashable] = []
    for candidates in groups_of.values():
        order = [candidates[i] for i in rng.permutation(len(candidates))]
        total = sum(len(members[group]) for group in order)
        room = max(1, round(fraction * total))
        chosen: list[Hashable] = []
        for group in order:
            # The last group left stays: a class must not vanish from the training rows.
            if len(members[group]) <= room and len(chosen) < len(order) - 1:
                chosen.append(group)
                room -= len(members[group])
        held += chosen

    # What the loop above can miss: a class whose groups are all too large, or all start with another class's row.
    taken = set(held)
    for label in groups_of:
        having = {groups[row] for row in np.flatnonzero(labels == label).tolist()}
        if len(having) >= 2 and taken.isdisjoint(having):
            taken.add(min((group for group in members if group in having), key=lambda group: len(members[group])))

    in_held = np.zeros(len(labels), dtype=bool)
    in_held[[row for group in taken for row in members[group]]] = True
    return np.flatnonzero(~in_held), np.flatnonzero(in_held)


def cuts(
    groups: Sequence[Hashable],
    labels: np.ndarray,
    shares: Mapping[str, float],
    seed: int,
    called: str,
    way_out: str = "give more",
) -> dict[str, np.ndarray]:
    """Cut N rows into one part for each of ``shares``, a share of all N, in their order, and what is left, ``train``.

    Args:
        groups: of each row; none is torn apart.
        labels: ``(N,)``, kept in proportion.
        seed: of all cuts.
        called: what the groups are, for messages.
        way_out: what to do about too few of them.

    Raises:
        UserError: for rows that are too few.
    """
    rest, total = np.arange(len(labels)), len(labels)
    rows: dict[str, np.ndarray] = {}
    for number, (name, share) in enumerate(shares.items()):
        of_rest = min(0.5, share * total / max(1, len(rest)))
        left = [groups[row] for row in rest.tolist()]
        kept, held = stratified_group_split(left, labels[rest], of_rest, 3 * seed + number)
        if not len(held):
            raise UserError(
                f"data.train has {len(set(left))} {called}, too few to cut a {name} split that "
                f"keeps each class on both sides; {way_out}"
            )
        rows[name], rest = rest[held], rest[kept]
    return {**rows, "train": rest}
