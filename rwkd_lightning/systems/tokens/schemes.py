"""Schemes of tags: how a tag for every word says where an entity begins and ends.

IOB2 (also called BIO): B-X begins an entity of type X, I-X goes on with it, O is outside. BIOES also marks its last
word (E-X) and one of a single word (S-X). IOB1 begins an entity with I-X, and with B-X only where it follows one of the
same type (Ramshaw and Marcus 1995; the files of CoNLL-2003). Plain tags, as parts of speech, mark no entities.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

OUTSIDE = "O"
SCHEMES = ("iob2", "bioes", "iob1", "loose", "plain")
"""``loose``: tags with prefixes in any order, scored as they stand."""
PREFIXES = {"iob2": "BI", "bioes": "BIES", "iob1": "BI", "loose": "BIES"}
"""The prefixes of each scheme with entities."""


def parsed(tag: str) -> tuple[str, str] | None:
    """Prefix and type of a tag, ``("O", "")`` outside; None for a plain one."""
    if tag == OUTSIDE:
        return OUTSIDE, ""
    found = re.fullmatch(r"([BIESLU])-(.+)", tag, re.DOTALL)
    return (found[1], found[2]) if found else None


def violation(tags: Sequence[str], scheme: str) -> int | None:
    """The place of the first tag that the scheme does not allow there; None for a valid sequence."""
    if scheme in ("plain", "loose"):
        return None
    before: tuple[str, str] = (OUTSIDE, "")
    for place, tag in enumerate(tags):
        now = parsed(tag) or ("", "")
        if not follows(before, now, scheme):
            return place
        before = now
    return len(tags) - 1 if scheme == "bioes" and before[0] in ("B", "I") else None


def follows(before: tuple[str, str], now: tuple[str, str], scheme: str) -> bool:
    """Whether one tag may follow another; the first of a sentence follows O."""
    prefix, kind = now
    if prefix not in (*PREFIXES[scheme], OUTSIDE):
        return False
    inside = before[0] in ("B", "I") and before[1] == kind  # of an entity of this type
    if scheme == "iob1":
        return prefix != "B" or inside
    if scheme == "iob2":
        return prefix != "I" or inside
    return inside if prefix in ("I", "E") else before[0] not in ("B", "I")


def scheme_of(sentences: Sequence[Sequence[str]]) -> str:
    """The scheme that tags are in, by the prefixes that occur: ``iob2``, ``bioes``, ``iob1`` or ``plain``.

    Where both fit, as where each entity is one word with B, it is IOB2; where neither IOB2 nor IOB1 fits it is IOB2,
    whose first violation is then told.
    """
    tags = {tag for sentence in sentences for tag in sentence} - {OUTSIDE}
    prefixes = {found[0] for tag in tags if (found := parsed(tag))}
    if not prefixes:
        return "plain"
    if prefixes & set("ES"):
        return "bioes"
    for scheme in ("iob2", "iob1"):
        if all(violation(sentence, scheme) is None for sentence in sentences):
            return scheme
    return "iob2"


def iob2_of(tags: Sequence[str]) -> list[str]:
    """IOB1 as IOB2: B for the first word of every entity."""
    found, before = [], (OUTSIDE, "")
    for tag in tags:
        now = parsed(tag) or (OUTSIDE, "")
        begins = now[0] == "I" and not (before[0] in ("B", "I") and before[1] == now[1])
        found.append(f"B-{now[1]}" if begins else tag)
        before = now
    return found
