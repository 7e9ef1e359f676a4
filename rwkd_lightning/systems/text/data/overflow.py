"""Texts that are longer than the model reads: their ends are cut off, or their middles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rwkd_lightning.utils.errors import UserError

KINDS = ("truncate", "head_tail")


def check(overflow: str, tokenizer: Any) -> None:
    """Raise UserError for a way that is not known, or that this tokenizer cannot go."""
    if overflow not in KINDS:
        raise UserError(f"data.overflow is {overflow!r}; known are {', '.join(KINDS)}")
    if overflow == "head_tail" and not getattr(tokenizer, "is_fast", False):
        raise UserError(
            "data.overflow=head_tail asks where each token lies in the text, and the tokenizer "
            f"{tokenizer.name_or_path!r} is a slow one, which does not say; use data.overflow=truncate"
        )


def head_tail(columns: Sequence[Sequence[str]], tokenizer: Any, max_length: int) -> tuple[list[list[str]], int]:
    """Texts of which the first and the last tokens fit, and how many rows were shortened.

    A text that has room for n tokens keeps its first ⌈n/2⌉ and its last ⌊n/2⌋ (Sun et al., How to Fine-Tune BERT for
    Text Classification?, CCL 2019, section 5.1, with other shares), with a blank between them. Of two texts the longer
    one is shortened until they are of one length, then both; special tokens count.

    Args:
        columns: one or two columns of N texts.
        tokenizer: a fast one.
        max_length: tokens of a row, the special ones included.
    """
    room = max_length - tokenizer.num_special_tokens_to_add(pair=len(columns) == 2)
    spans = [
        tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
        for texts in columns
    ]
    found, shortened = [list(texts) for texts in columns], 0
    for row, places in enumerate(zip(*spans, strict=True)):
        sizes = [len(place) for place in places]
        if sum(sizes) <= room:
            continue
        shortened += 1
        for texts, place, size, kept in zip(found, places, sizes, shares(sizes, room), strict=True):
            if kept < size:
                texts[row] = without_middle(texts[row], place, kept)
    return found, shortened


def shares(sizes: Sequence[int], room: int) -> list[int]:
    """The tokens that each of one or two texts keeps."""
    if len(sizes) == 1:
        return [room]
    first, second = sizes
    half = room // 2
    if min(first, second) <= half:
        return [first, room - first] if first < second else [room - second, second]
    return [room - half, half]


def without_middle(text: str, places: Sequence[tuple[int, int]], kept: int) -> str:
    """The text up to its first ⌈kept/2⌉ tokens and from its last ⌊kept/2⌋ on.

    Args:
        places: where each token begins and ends.
    """
    head, tail = (kept + 1) // 2, kept // 2
    begin = text[: places[head - 1][1]] if head else ""
    return f"{begin} {text[places[len(places) - tail][0] :]}" if tail else begin
