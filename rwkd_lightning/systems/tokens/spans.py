"""Entities of a sequence of tags, and scores of them, as seqeval counts them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rwkd_lightning.systems.tokens.schemes import OUTSIDE, parsed

Span = tuple[str, int, int]
"""Type, first and last word."""
Tags = Sequence[Sequence[str]]


def entities(tags: Sequence[str]) -> list[Span]:
    """The entities of a sentence in IOB1, IOB2 or BIOES, valid or not; those of seqeval's default mode.

    A word outside of O belongs to exactly one entity. It goes on with the one before it if its prefix is I or E, the
    type is the same, and the word before has the prefix B or I; else it begins a new one.
    """
    found: list[Span] = []
    before, start = (OUTSIDE, ""), 0
    for place, tag in enumerate([*tags, OUTSIDE]):
        now = parsed(tag) or ("B", tag)
        goes_on = now[0] in ("I", "E") and before[0] in ("B", "I") and before[1] == now[1]
        if before[0] != OUTSIDE and not goes_on:
            found.append((before[1], start, place - 1))
        if not goes_on:
            start = place
        before = now
    return found


def entity_scores(truth: Tags, predicted: Tags) -> dict[str, float]:
    """``f1``, ``precision`` and ``recall`` of the entities of all sentences together (micro), and ``accuracy``.

    An entity counts as found where type, first and last word are right (Tjong Kim Sang and De Meulder, CoNLL 2003). A
    quotient by 0 is 0.
    """
    counts = [matched(one, other) for one, other in zip(truth, predicted, strict=True)]
    right, said, there = map(sum, zip(*counts, strict=True)) if counts else (0, 0, 0)
    precision, recall = share(right, said), share(right, there)
    f1 = share(2 * precision * recall, precision + recall)
    return {"f1": f1, "precision": precision, "recall": recall, "accuracy": accuracy(truth, predicted)}


def matched(truth: Sequence[str], predicted: Sequence[str]) -> tuple[int, int, int]:
    """How many entities of a sentence were found, how many were said, and how many are there."""
    wanted, given = set(entities(truth)), set(entities(predicted))
    return len(wanted & given), len(given), len(wanted)


def plain_scores(truth: Tags, predicted: Tags) -> dict[str, float]:
    """``accuracy`` of the words, and ``macro_f1``, the mean over the tags that occur in either of their F1."""
    right: Counter[str] = Counter()
    there = Counter(tag for sentence in truth for tag in sentence)
    said = Counter(tag for sentence in predicted for tag in sentence)
    for one, other in zip(truth, predicted, strict=True):
        right.update(a for a, b in zip(one, other, strict=True) if a == b)
    each = [share(2 * right[tag], there[tag] + said[tag]) for tag in {*there, *said} - {""}]
    return {"accuracy": accuracy(truth, predicted), "macro_f1": share(sum(each), len(each))}


def accuracy(truth: Tags, predicted: Tags) -> float:
    """Share of the words with the right tag."""
    pairs = [(a, b) for one, other in zip(truth, predicted, strict=True) for a, b in zip(one, other, strict=True)]
    return share(sum(a == b for a, b in pairs), len(pairs))


def share(part: float, whole: float) -> float:
    """A quotient, 0 where there is nothing."""
    return part / whole if whole else 0.0
