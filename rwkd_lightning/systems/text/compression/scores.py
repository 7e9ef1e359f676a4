"""How much each word's error counts: by how often a corpus has it, or by what its vector does to the loss."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rwkd_lightning.systems.text.compression.low_rank import Array
from rwkd_lightning.systems.text.data.collate import Collator
from rwkd_lightning.systems.text.models.classifier import Classifier

MANY = 200_000
"""Rows beyond so many are not read: every so many-th is."""


def frequency(rows: Iterable[Sequence[int]], words: int, base: float = 1.0) -> Array:
    """How often each word occurs, ``(V,)``, plus ``base``, so that unseen words count too."""
    counts = np.full(words, base)
    for ids in rows:
        np.add.at(counts, np.asarray(ids, dtype=np.int64), 1.0)
    return counts


def tfidf(rows: Iterable[Sequence[int]], words: int) -> Array:
    """tf_w·idf_w + 1/N of N texts, as Lee et al.'s code has it.

    tf_w is the mean of 0.1·count/(largest count in the text), idf_w = max(log(N/(df_w + 2)), 0) + 1.
    """
    tf, df, texts = np.zeros(words), np.zeros(words), 0
    for ids in rows:
        found, often = np.unique(np.asarray(ids, dtype=np.int64), return_counts=True)
        if len(found):
            tf[found] += 0.1 * often / often.max()
            df[found] += 1
        texts += 1
    n = max(texts, 1)
    found_scores: Array = tf / n * (np.maximum(np.log(n / (df + 2)), 0) + 1) + 1 / n
    return found_scores


def fisher(student: Classifier, tokenizer: Any, rows: Sequence[Sequence[int]], labels: Tensor, size: int = 32) -> Array:
    """Σ_j (∂L/∂a_wj)² of each word, ``(V,)``, the mean over texts, L a text's loss with its label: the diagonal of the
    Fisher information, summed over a row (Hsu et al., Language model compression with weighted low-rank factorization,
    ICLR 2022, eq. 5 and 6). A word that occurs twice in a text has one gradient, the sum.

    Unseen words get a tenth of the smallest that there is.
    """
    table = student.network.get_input_embeddings()  # type: ignore[operator]
    device = next(student.parameters()).device
    held: list[Tensor] = []

    def keep(_: Any, __: Any, output: Tensor) -> Tensor:
        vectors = output.detach().requires_grad_()
        held.append(vectors)
        return vectors

    total = torch.zeros(table.num_embeddings, dtype=torch.float64)
    collate, was_training = Collator(tokenizer), student.training
    student.eval()
    hook = table.register_forward_hook(keep)
    try:
        for start in range(0, len(rows), size):
            some = range(start, min(start + size, len(rows)))
            batch = collate([{"input_ids": np.asarray(rows[i]), "label": labels[i], "index": i} for i in some])
            batch = {name: value.to(device) for name, value in batch.items()}
            held.clear()
            with torch.enable_grad():
                loss = loss_of(student(batch)["logits"], batch["labels"])
                (gradient,) = torch.autograd.grad(loss, held[0])
            for ids, mine, there in zip(batch["input_ids"], gradient, batch["attention_mask"], strict=True):
                seen, place = ids[there.bool()].unique(return_inverse=True)
                each = mine.new_zeros(len(seen), mine.shape[1]).index_add(0, place, mine[there.bool()])
                total[seen.cpu()] += each.double().square().sum(1).cpu()
    finally:
        hook.remove()
        student.train(was_training)
    known = total[total > 0]
    least = float(known.min()) / 10 if len(known) else 1.0
    found: Array = (total.clamp_min(least) / max(1, len(rows))).numpy()
    return found


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """The sum of the texts' losses: cross-entropy, binary of several labels, squared of numbers."""
    if logits.shape[1] == 1 and labels.is_floating_point():
        return F.mse_loss(logits[:, 0], labels.to(logits.dtype), reduction="sum")
    if labels.ndim == 1:
        return F.cross_entropy(logits, labels, reduction="sum")
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none").mean(1).sum()
