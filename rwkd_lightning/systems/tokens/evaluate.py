"""Scores of taggers: entities or tags of all words, those among them that a model does not read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from rwkd_lightning.systems.tokens.data import TokenData
from rwkd_lightning.systems.tokens.schemes import OUTSIDE
from rwkd_lightning.systems.tokens.spans import entity_scores, matched, plain_scores

T = TypeVar("T")


def likeliest(tags: Sequence[str], logits: Tensor) -> list[str]:
    """The likeliest tag of each word, from logits ``(words, C)``; of one that is not read (NaN) O, or nothing where
    there is no O.
    """
    unread = OUTSIDE if OUTSIDE in tags else ""
    read = ~logits.isnan().any(1)
    return [
        tags[number] if known else unread
        for number, known in zip(logits.nan_to_num(0.0).argmax(1).tolist(), read.tolist(), strict=True)
    ]


def grouped(values: Sequence[T], lengths: Iterable[int]) -> list[list[T]]:
    """The values of words, one after the other, as one list for each sentence of so many words."""
    found, begin = [], 0
    for length in lengths:
        found.append(list(values[begin : begin + length]))
        begin += length
    return found


def names_of(data: TokenData, split: str, logits: Tensor) -> list[list[str]]:
    """The likeliest tags of each sentence of a split, see `likeliest`."""
    return grouped(likeliest(data.tags, logits), map(len, data.splits[split].tokens))


def score(data: TokenData, truth: Sequence[Sequence[str]], said: Sequence[Sequence[str]]) -> dict[str, float]:
    """The scores of predicted tags: of entities, or of plain tags."""
    return plain_scores(truth, said) if data.scheme == "plain" else entity_scores(truth, said)


def counted(data: TokenData, split: str, said: Sequence[Sequence[str]]) -> dict[str, Tensor]:
    """For each sentence what `monitor_of`'s score is made of: ``right``, ``said`` and ``there``, entities or words."""
    truth = data.named(split)
    if data.scheme == "plain":
        counts = [
            (sum(a == b for a, b in zip(one, other, strict=True)), len(one), len(one))
            for one, other in zip(truth, said, strict=True)
        ]
    else:
        counts = [matched(one, other) for one, other in zip(truth, said, strict=True)]
    columns = torch.tensor(counts).T
    return {"idx": torch.tensor(data.splits[split].idx), **dict(zip(("right", "said", "there"), columns, strict=True))}


def monitor_of(data: TokenData) -> str:
    """The score that a checkpoint is chosen by."""
    return "accuracy" if data.scheme == "plain" else "f1"


def score_names(data: TokenData) -> list[str]:
    """The names of all scores."""
    return list(score(data, [["O"]], [["O"]]))


class WordScores:
    """A `Validation` by the scores of the words of the meta split that the student reads.

    Args:
        data: for the tags' names.
    """

    def __init__(self, data: TokenData) -> None:
        self.data = data
        self.truth: list[list[str]] = []
        self.said: list[list[str]] = []

    def update(self, student: nn.Module, batch: dict[str, Tensor]) -> None:
        """Take in a batch."""
        chosen = student(batch)["logits"].argmax(-1)
        for labels, tags, read in zip(batch["labels"], chosen, batch["words"], strict=True):
            self.truth.append([self.data.tags[number] for number in labels[read].tolist()])
            self.said.append([self.data.tags[number] for number in tags[read].tolist()])

    def compute(self) -> dict[str, Tensor]:
        """The scores since the last call."""
        if not self.truth:
            return {}
        found = score(self.data, self.truth, self.said)
        self.truth, self.said = [], []
        return {name: torch.tensor(value) for name, value in found.items()}
