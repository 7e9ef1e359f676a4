"""Texts that are longer than the model reads: their ends are cut off, or their middles, or they are read in windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rwkd_lightning.utils.errors import UserError

KINDS = ("truncate", "head_tail", "windows")


def check(overflow: str, tokenizer: Any, columns: int = 1, max_length: int = 0, stride: int | None = None) -> None:
    """Refuse a way that is not known, or that this tokenizer cannot go.

    Args:
        columns: texts of a row.
        max_length: of the windows, in tokens.
        stride: see `stride_of`.

    Raises:
        UserError: also for pairs of texts in windows, and windows of which none has a token that the others lack.
    """
    if overflow not in KINDS:
        raise UserError(f"data.overflow is {overflow!r}; known are {', '.join(KINDS)}")
    if overflow != "truncate" and not getattr(tokenizer, "is_fast", False):
        raise UserError(
            f"data.overflow={overflow} asks where each token lies in the text, and the tokenizer "
            f"{tokenizer.name_or_path!r} is a slow one, which does not say; use data.overflow=truncate"
        )
    if overflow != "windows":
        return
    if columns > 1:
        raise UserError(
            "data.overflow=windows reads one text of a row in windows, and this task's rows have two; use "
            "data.overflow=head_tail"
        )
    room, shared = max_length - tokenizer.num_special_tokens_to_add(), stride_of(stride, max_length)
    if shared >= room > 0:
        raise UserError(
            f"data.stride is {shared}, and a window of data.max_length={max_length} has room for {room} tokens of the "
            f"text, so that the next one would not get on; give {room - 1} or less, or a larger data.max_length"
        )


def stride_of(stride: int | None, max_length: int) -> int:
    """The tokens that a window shares with the one before: a quarter of its length where the user does not say."""
    return max_length // 4 if stride is None else stride


def windows(texts: Sequence[str], tokenizer: Any, max_length: int, stride: int | None) -> tuple[dict[str, Any], int]:
    """Token ids and perhaps types of N texts, each its windows one after the other, and how many have several.

    Each window has the special tokens of a whole text. All but one of a text's windows have ``max_length`` tokens,
    and that one stands last: ``collate.Collator`` cuts them apart by that.
    """
    encoded = tokenizer(
        list(texts),
        truncation=True,
        max_length=max_length,
        stride=stride_of(stride, max_length),
        return_overflowing_tokens=True,
        return_attention_mask=False,
    )
    of = encoded["overflow_to_sample_mapping"]
    joined: dict[str, list[list[int]]] = {}
    for name in ("input_ids", "token_type_ids"):
        if name in encoded:
            joined[name] = [[] for _ in texts]
            for row, ids in zip(of, encoded[name], strict=True):
                joined[name][row] += ids
    return joined, sum(len(ids) > max_length for ids in joined["input_ids"])


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
