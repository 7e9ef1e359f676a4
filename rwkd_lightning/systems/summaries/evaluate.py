"""The scores of summaries: ROUGE beside references, and what needs no training beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rwkd_lightning.systems.summaries.data import TEST, VALIDATION, Split, SummaryData
from rwkd_lightning.systems.summaries.rouge import figures, rouge

SCORED = (VALIDATION, TEST)
SHOWN = 3
"""Summaries below the table."""


@dataclass
class Scored:
    """The summaries of a split by one author, with their scores."""

    texts: list[str]
    rows: dict[str, Tensor]
    """ROUGE F1, ``(N,)`` each."""
    means: dict[str, float]


def score(split: Split, texts: Sequence[str]) -> Scored:
    """The scores of these summaries of the split's first documents."""
    count = len(texts)
    references, documents = split.summaries[:count], split.documents[:count]
    rows = rouge(texts, references)
    means = {name: float(values.mean()) for name, values in rows.items()}
    return Scored(list(texts), rows, {**means, **figures(texts, references, documents)})


def shortened(data: SummaryData, most: int | None) -> dict[str, Split]:
    """The splits that are scored, their first rows alone where ``most`` says so."""
    return {name: data.splits[name].select(range(min(most or 10**9, len(data.splits[name])))) for name in SCORED}


def baselines(data: SummaryData, splits: Mapping[str, Split]) -> dict[str, dict[str, dict[str, float]]]:
    """The scores of what needs no training, by name and split."""
    return {
        name: {
            split: score(rows, [write(document) for document in rows.documents]).means for split, rows in splits.items()
        }
        for name, write in data.baselines.items()
    }


def prediction_rows(split: Split, scored: Scored) -> dict[str, Tensor]:
    """For each document its number in the source, and the student's scores."""
    return {"idx": torch.tensor(split.idx[: len(scored.texts)]), **scored.rows}


def examples(split: Split, authors: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """A few documents, evenly taken, with what each author writes."""
    count = min(map(len, authors.values()))
    places = [count * i // SHOWN for i in range(min(SHOWN, count))]
    return [
        {
            "document": split.documents[place][:300],
            "reference": split.summaries[place],
            **{who: texts[place] for who, texts in authors.items()},
        }
        for place in places
    ]
