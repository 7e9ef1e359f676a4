"""Texts with pictures and labels, in splits; what every reader of a layout returns."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rwkd_lightning.cache.store import digest
from rwkd_lightning.data.splits import stratified_group_split
from rwkd_lightning.systems.multimodal.pictures import Pictures
from rwkd_lightning.systems.text.data.task import TaskSpec
from rwkd_lightning.utils.errors import UserError

log = logging.getLogger(__name__)
TRAIN, META, VALIDATION, TEST = SPLITS = ("train", "meta", "validation", "test")
SCORED = (VALIDATION, TEST)
NONE = -1
"""The picture of a row without one; the label of a row without one."""


@dataclass(frozen=True)
class Examples:
    """N rows.

    Attributes:
        texts: empty for a row without one.
        pictures: the number of each row's picture in `Collection.pictures`; −1: none.
        labels: classes ``(N,)``, −1 for a row without one; or of several per row 0 and 1 ``(N, C)``.
        idx: where each row stands in its source.
    """

    texts: Sequence[str]
    pictures: Sequence[int]
    labels: np.ndarray
    idx: Sequence[int]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Sequence[int]) -> Examples:
        """These rows."""
        return Examples(
            [self.texts[i] for i in rows],
            [self.pictures[i] for i in rows],
            self.labels[list(rows)],
            [self.idx[i] for i in rows],
        )

    def fingerprint(self) -> str:
        """SHA-256 of all that is known of the rows but the pictures' contents."""
        return digest([list(self.texts), list(self.pictures), self.labels.tolist(), list(self.idx)])


@dataclass(frozen=True)
class Collection:
    """A data set.

    Attributes:
        name: of the task.
        classes: C names.
        splits: by name; ``meta`` is cut from ``train`` by `held_out`.
        pictures: those of all splits.
        groups: of the training rows, what must stay on one side of a cut (the same picture, the same text).
        several: whether a row may have several labels, or none.
        note: to be told with the data: a licence's attribution.
    """

    name: str
    classes: Sequence[str]
    splits: Mapping[str, Examples]
    pictures: Pictures
    groups: Sequence[int]
    several: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        check(self)

    def held_out(self, fraction: float, seed: int) -> Collection:
        """The collection with a share of the training groups as the split ``meta``."""
        train = self.splits[TRAIN]
        kinds = np.zeros(len(train), dtype=np.int64) if self.several else train.labels
        kept, chosen = stratified_group_split(self.groups, kinds, fraction, seed)
        if not len(kept) or not len(chosen):
            raise UserError(
                f"{self.name} has {len(set(self.groups))} distinct training examples, and data.meta_fraction="
                f"{fraction:g} leaves {len(chosen)} rows for the meta step and {len(kept)} for training; give more rows"
            )
        rows = {TRAIN: kept.tolist(), META: chosen.tolist()}
        splits = {TRAIN: train.take(rows[TRAIN]), META: train.take(rows[META])}
        splits |= {name: self.splits[name] for name in SCORED}
        return replace(self, splits=splits, groups=[self.groups[i] for i in rows[TRAIN]])

    @property
    def task(self) -> TaskSpec:
        """The task as the text system's metrics know one."""
        metrics = ("micro_f1", "macro_f1", "map") if self.several else ("accuracy", "macro_f1")
        sets = tuple((c,) for c in range(len(self.classes))) if self.several else None
        return TaskSpec(self.name, ("text",), tuple(self.classes), metrics, metrics[0], SCORED, label_sets=sets)

    def fingerprint(self, split: str) -> str:
        """SHA-256 of a split with its classes; the pictures have their own."""
        return digest([list(self.classes), self.several, self.splits[split].fingerprint()])


def check(data: Collection) -> None:
    """Raise UserError for splits that cannot be trained on or scored."""
    for name in (TRAIN, *SCORED):
        if not len(data.splits[name]):
            raise UserError(f"{data.name} has no row in its split {name}; a run needs train, validation and test")
        unknown = (data.splits[name].labels < 0).reshape(len(data.splits[name]), -1).any(axis=1)
        if name != TRAIN and bool(unknown.any()):
            raise UserError(
                f"{data.name}: {int(unknown.sum())} rows of {name} have no label, and it is scored; leave them out"
            )
    if len(data.classes) < 2:
        raise UserError(f"{data.name} has the classes {list(data.classes)}; a classification needs two or more")
    known = data.splits[TRAIN].labels
    if not bool((known >= 0).any()):
        raise UserError(f"{data.name}: no row of train has a label")
    if not data.several and len(np.unique(known[known >= 0])) < 2:
        only = data.classes[int(known[known >= 0][0])]
        raise UserError(f"{data.name}: all rows of train have the label {only!r}; there is nothing to tell apart")


def tell(data: Collection) -> None:
    """One line for each split, and what a licence asks to be said."""
    for name, rows in data.splits.items():
        bare = sum(not text for text in rows.texts), sum(place == NONE for place in rows.pictures)
        pictures = len(set(rows.pictures) - {NONE})
        without = "".join(f", {n} without {what}" for n, what in zip(bare, ("text", "picture"), strict=True) if n)
        log.info("%s: %d rows, %d pictures%s", name, len(rows), pictures, without)
    if data.note:
        log.info("%s", data.note)
