"""A plain summary of tagged sentences before anything is trained: what was understood, and what looks wrong."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rwkd_lightning.systems.tokens.spans import entities

if TYPE_CHECKING:
    from rwkd_lightning.systems.tokens.data import Split

log = logging.getLogger(__name__)
LISTED = 20


def summarise(
    splits: Mapping[str, Split], tags: Sequence[str], scheme: str, groups: Sequence[str], given: Collection[str]
) -> None:
    """Log sentences, words, tags, entities and copies.

    Args:
        groups: of the sentences of the training file, those that stay on one side of a cut.
        given: the splits that have a file.
    """
    log.info("%s", ", ".join(f"{name} {len(split)} sentences ({split.words} words)" for name, split in splits.items()))
    lengths = np.array([len(sentence) for split in splits.values() for sentence in split.tokens])
    log.info("%d words in the median sentence, %d in the longest", np.median(lengths), lengths.max())
    counts = Counter(number for sentence in splits["train"].tags for number in sentence)
    more = ", ..." if len(tags) > LISTED else ""
    listed = ", ".join(f"{tag} {counts[number]}" for number, tag in enumerate(tags[:LISTED]))
    log.info("%d tags, %s: %s%s", len(tags), f"scheme {scheme}", listed, more)
    if scheme != "plain":
        for name, split in splits.items():
            found = Counter(kind for numbers in split.tags for kind, _, _ in entities([tags[n] for n in numbers]))
            log.info("entities of %s: %s", name, ", ".join(f"{k} {n}" for k, n in sorted(found.items())) or "none")
    if copies := len(groups) - len(set(groups)):
        log.info("%d sentences repeat the words of another one: no cut parts them", copies)
    trained = {tuple(sentence) for sentence in splits["train"].tokens}
    for name in ("validation", "test"):
        shared = sum(tuple(sentence) in trained for sentence in splits[name].tokens)
        if name in given and shared:
            log.warning("%d of the %d sentences of data.%s are in the training too", shared, len(splits[name]), name)
        seen = {number for sentence in splits[name].tags for number in sentence}
        if lacking := [tag for number, tag in enumerate(tags) if number not in seen]:
            log.warning("no word of %s has the tag(s) %s", name, ", ".join(lacking[:LISTED]))
