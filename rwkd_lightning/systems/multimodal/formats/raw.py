"""What a reader finds, before pictures are looked for and labels have numbers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rwkd_lightning.data.splits import stratified_group_split
from rwkd_lightning.systems.multimodal.collection import NONE, SCORED, TRAIN, Collection, Examples
from rwkd_lightning.systems.multimodal.joined import joined
from rwkd_lightning.systems.multimodal.pictures import Files
from rwkd_lightning.utils.errors import UserError

log = logging.getLogger(__name__)


class Row(NamedTuple):
    """A row.

    Attributes:
        text: empty for none.
        image: a path below the folder; None for none.
        label: its name, of a row that has several a list of them; None for none.
        place: where it stands, for messages: ``train.jsonl, line 3``.
        idx: its number in its source.
    """

    text: str
    image: str | None
    label: str | list[str] | None
    place: str
    idx: int


def row(text: str, image: str | None, label: str | list[str] | None, place: str, idx: int) -> Row:
    """A row.

    Raises:
        UserError: if it has neither a text nor a picture.
    """
    if not text.strip() and not image:
        raise UserError(f"{place} has neither a text nor a picture; give one of them, or leave the row out")
    return Row(text.strip(), image or None, label, place, idx)


def assemble(
    folder: Path,
    splits: Mapping[str, Sequence[Row]],
    several: bool,
    classes: Sequence[str] | None = None,
    fractions: Mapping[str, float] | None = None,
    seed: int = 0,
) -> Collection:
    """A collection of what a reader has found.

    Args:
        folder: below which the pictures lie.
        splits: a missing ``validation`` or ``test`` is cut from ``train``, equal texts and pictures on one side.
        several: whether a row may have several labels.
        classes: their names in the order of the outputs; None: all that are there, sorted.
        fractions: of what is cut.
        seed: of the cuts.

    Raises:
        UserError: for rows, labels or pictures that cannot be used, naming the place.
    """
    parts = {name: list(rows) for name, rows in splits.items()}
    for name in SCORED:
        if name not in parts:
            parts |= cut(parts[TRAIN], name, (fractions or {}).get(name, 0.1), seed)
    names = list(classes) if classes is not None else seen_classes(parts)
    numbers = {name: number for number, name in enumerate(names)}
    files: dict[str, str] = {}  # and the first row that names it
    for rows in parts.values():
        files |= {one.image: one.place for one in rows if one.image is not None and one.image not in files}
    places = {image: number for number, image in enumerate(files)}
    warn_shared(parts)
    return Collection(
        folder.name,
        names,
        {
            name: Examples(
                [one.text for one in parts[name]],
                [NONE if one.image is None else places[one.image] for one in parts[name]],
                labels_of(parts[name], numbers, several),
                [one.idx for one in parts[name]],
            )
            for name in (TRAIN, *SCORED)
        },
        Files(folder, list(files), list(files.values())),
        groups_of(parts[TRAIN]),
        several,
    )


def cut(train: Sequence[Row], name: str, share: float, seed: int) -> dict[str, list[Row]]:
    """The rows for training, and those of another split, with equal texts and pictures on one side."""
    kinds = np.array([str(one.label) for one in train])
    kept, chosen = stratified_group_split(groups_of(train), kinds, share, seed)
    log.info("%s: cut from train, %d of %d rows", name, len(chosen), len(train))
    return {TRAIN: [train[i] for i in kept], name: [train[i] for i in chosen]}


def names_in(label: str | list[str] | None) -> list[str]:
    """The labels of a row."""
    if label is None:
        return []
    return label if isinstance(label, list) else [label]


def seen_classes(parts: Mapping[str, Sequence[Row]]) -> list[str]:
    """All labels that are there, sorted; numbers by their size."""
    found = {name for rows in parts.values() for one in rows for name in names_in(one.label)}
    return sorted(found, key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name))


def labels_of(rows: Sequence[Row], numbers: Mapping[str, int], several: bool) -> np.ndarray:
    """Classes ``(N,)``, −1 for none; of several per row 0 and 1 ``(N, C)``, −1 throughout for a row without an entry.

    Raises:
        UserError: for a label that is not among the classes.
    """
    found = np.full((len(rows), len(numbers)) if several else len(rows), NONE, dtype=np.int64)
    for place, one in enumerate(rows):
        for name in names_in(one.label):
            if name not in numbers:
                known = ", ".join(list(numbers)[:8]) + ("..." if len(numbers) > 8 else "")
                raise UserError(f"{one.place} has the label {name!r}, which is not among data.classes ({known})")
        if several and one.label is not None:
            found[place] = 0
            found[place, [numbers[name] for name in names_in(one.label)]] = 1
        elif not several and one.label is not None:
            found[place] = numbers[names_in(one.label)[0]]
    return found.astype(np.float32) if several else found


def groups_of(rows: Sequence[Row]) -> list[int]:
    """Rows with the same picture or the same text, ignoring case, have one number."""
    return joined([one.text.casefold() or None for one in rows], [one.image for one in rows])


def warn_shared(parts: Mapping[str, Sequence[Row]]) -> None:
    """Tell how many texts and pictures of a scored split the training has, too."""
    known_texts = {one.text.casefold() for one in parts[TRAIN]}
    known_images = {one.image for one in parts[TRAIN]}
    for name in SCORED:
        texts = sum(bool(one.text) and one.text.casefold() in known_texts for one in parts[name])
        images = sum(one.image is not None and one.image in known_images for one in parts[name])
        if texts or images:
            log.info("%s: %d texts and %d pictures are in train, too", name, texts, images)
