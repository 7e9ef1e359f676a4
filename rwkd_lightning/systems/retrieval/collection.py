"""A test collection: documents, queries, and which documents are relevant to which query."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from rwkd_lightning.cache.store import digest
from rwkd_lightning.utils.errors import UserError

log = logging.getLogger(__name__)
TRAIN, META, VALIDATION, TEST = "train", "meta", "validation", "test"


@dataclass(frozen=True)
class Queries:
    """The queries of one split.

    Attributes:
        ids: as the source has them.
        texts: one a query.
        relevant: of each query, the places of its relevant documents in the collection, with their grades above 0.
        groups: queries of one group stay in one split; by default each is its own, and equal texts are one.
    """

    ids: list[str]
    texts: list[str]
    relevant: list[Mapping[int, float]]
    groups: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def at(self, places: np.ndarray) -> Queries:
        """Those at these places."""
        groups = self.groups or self.texts
        return Queries(
            [self.ids[i] for i in places],
            [self.texts[i] for i in places],
            [self.relevant[i] for i in places],
            [groups[i] for i in places],
        )

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Each query's place with that of each document relevant to it: the rows that a student is trained on."""
        return [(query, document) for query, relevant in enumerate(self.relevant) for document in sorted(relevant)]

    def fingerprint(self) -> str:
        """Digest of all that a result depends on."""
        return digest([self.ids, self.texts, [sorted(relevant.items()) for relevant in self.relevant]])


@dataclass(frozen=True)
class Collection:
    """D documents, and the queries of each split: train, meta, validation and test.

    Attributes:
        name: for messages and the table.
        ids: of the documents, as the source has them.
        texts: of the documents, a title first.
        splits: by name.
    """

    name: str
    ids: list[str]
    texts: list[str]
    splits: Mapping[str, Queries]

    def fingerprint(self) -> str:
        """Digest of the documents."""
        return digest([self.ids, self.texts])

    def stand_ins(self) -> np.ndarray:
        """Of each document the place of the first one with the same text, ``(D,)``; an empty one stands for itself."""
        first: dict[str, int] = {}
        return np.array([first.setdefault(text, i) if text else i for i, text in enumerate(self.texts)])

    def named(self, split: str) -> Queries:
        """The queries of a split; UserError for one that there is not."""
        if split not in self.splits:
            raise UserError(f"{self.name} has no split {split!r}; it has {', '.join(self.splits)}")
        return self.splits[split]

    def held_out(self, meta_fraction: float, validation_fraction: float, seed: int) -> Collection:
        """The same with a meta split, and a validation split where there is none, cut from train by groups of queries.

        Raises:
            UserError: if a split would be empty.
        """
        splits = dict(self.splits)
        if VALIDATION not in splits:
            splits[TRAIN], splits[VALIDATION] = cut(splits[TRAIN], validation_fraction, seed, VALIDATION)
        splits[TRAIN], splits[META] = cut(splits[TRAIN], meta_fraction, seed + 1, META)
        return Collection(self.name, self.ids, self.texts, splits)


def cut(queries: Queries, fraction: float, seed: int, name: str) -> tuple[Queries, Queries]:
    """The queries without, and with, about this fraction of their groups; equal texts count as one group."""
    groups = np.unique(queries.groups or queries.texts, return_inverse=True)[1]
    count = int(groups.max()) + 1 if len(groups) else 0
    wanted = round(fraction * count)
    if not 0 < wanted < count:
        raise UserError(
            f"{len(queries)} training queries in {count} groups leave {wanted} for the split {name!r}; give more "
            f"queries, or another data.{name}_fraction than {fraction}"
        )
    taken = np.isin(groups, np.random.default_rng(seed).permutation(count)[:wanted])
    return queries.at(np.flatnonzero(~taken)), queries.at(np.flatnonzero(taken))


def tell(collection: Collection) -> None:
    """Log what was read."""
    splits = ", ".join(f"{name} {len(q)} ({len(q.pairs)} pairs)" for name, q in collection.splits.items())
    log.info("%s: %d documents; queries: %s", collection.name, len(collection.ids), splits)
    if TEST in collection.splits:
        trained = {document for _, document in collection.splits[TRAIN].pairs}
        tested = {document for _, document in collection.splits[TEST].pairs}
        log.info(
            "%d of the %d documents relevant in test are relevant to a training query, too",
            len(trained & tested),
            len(tested),
        )
