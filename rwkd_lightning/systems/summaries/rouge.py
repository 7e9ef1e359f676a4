"""ROUGE, and other figures of summaries beside their references and documents.

ROUGE-1, 2 and L (Lin 2004) are torchmetrics', whose values are those of ``rouge-score`` without its stemmer; those of
other programs differ.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

KEYS = ("rouge1", "rouge2", "rougeL")
METRIC = "rouge1"


def rouge(written: Sequence[str], references: Sequence[str]) -> dict[str, Tensor]:
    """F1 of each summary, ``(N,)`` in float64, by name."""
    from torchmetrics.functional.text import rouge_score

    rows = [rouge_score(a, b, rouge_keys=KEYS) for a, b in zip(written, references, strict=True)]
    return {key: torch.tensor([float(row[f"{key}_fmeasure"]) for row in rows], dtype=torch.float64) for key in KEYS}


def figures(written: Sequence[str], references: Sequence[str], documents: Sequence[str]) -> dict[str, float]:
    """Means over summaries: words as a share of the reference's, bigrams that the document lacks, and trigrams that
    stand in the summary before.
    """
    lengths, novel, repeated = [], [], []
    for text, reference, document in zip(written, references, documents, strict=True):
        mine, theirs, read = words(text), words(reference), words(document)
        lengths.append(len(mine) / max(1, len(theirs)))
        pairs, triples = grams(mine, 2), grams(mine, 3)
        if pairs:
            there = set(grams(read, 2))
            novel.append(sum(pair not in there for pair in pairs) / len(pairs))
        if triples:
            repeated.append(1 - len(set(triples)) / len(triples))
    return {"length_ratio": mean(lengths), "novel_bigrams": mean(novel), "repeated_trigrams": mean(repeated)}


def words(text: str) -> list[str]:
    """Letters and digits in small letters, as ROUGE counts them."""
    return re.findall(r"[a-z0-9]+", text.lower())


def grams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Runs of n words."""
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def mean(values: Sequence[float]) -> float:
    """The mean, 0 of none."""
    return sum(values) / len(values) if values else 0.0
