"""Vectors and scores of whole collections."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rwkd_lightning.meta.restriction import to_device
from rwkd_lightning.systems.retrieval.encoder import mean
from rwkd_lightning.systems.retrieval.late_interaction import LateInteraction, maxsim
from rwkd_lightning.systems.retrieval.student import BiEncoder
from rwkd_lightning.systems.retrieval.tokens import Texts
from rwkd_lightning.utils import bars

TOGETHER = 64
"""Queries and documents whose tokens are compared at once: (64 · 64 · S · T) products."""


@torch.inference_mode()
def encode(
    student: BiEncoder, texts: Texts, size: int, device: torch.device, description: str, precision: str = "32-true"
) -> Tensor:
    """The student's vectors ``(N, d)``, in float32."""
    student.eval().to(device)
    found = torch.empty(len(texts), student.width)
    for places, batch in bars.over(list(texts.batches(size)), description):
        with half(device, precision):
            found[places] = student.vectors(to_device(batch, device), texts.what).float().cpu()
    return found


@torch.inference_mode()
def late_scores(
    teacher: LateInteraction,
    queries: Texts,
    documents: Texts,
    size: int,
    device: torch.device,
    description: str,
    precision: str = "32-true",
) -> Tensor:
    """φ ``(Q, D)`` of every document for every query, in float32; the documents' tokens are kept for a moment only."""
    teacher.eval().to(device)
    with half(device, precision):
        asked = [
            (places, *teacher.token_vectors(to_device(batch, device), "query"))
            for places, batch in queries.batches(TOGETHER)
        ]
    found = torch.empty(len(queries), len(documents))
    for places, batch in bars.over(list(documents.batches(min(size, TOGETHER))), description):
        with half(device, precision):
            vectors, mask = teacher.token_vectors(to_device(batch, device), "document")
        for rows, theirs, their_mask in asked:
            found[np.ix_(rows, places)] = maxsim(theirs, their_mask, vectors, mask).cpu()
    return found


@torch.inference_mode()
def mean_vectors(
    teacher: LateInteraction, texts: Texts, size: int, device: torch.device, description: str, precision: str
) -> Tensor:
    """The means ``(N, d)`` of the teacher's token vectors, in float32."""
    teacher.eval().to(device)
    found = torch.empty(len(texts), teacher.width)
    for places, batch in bars.over(list(texts.batches(size)), description):
        with half(device, precision):
            vectors, mask = teacher.token_vectors(to_device(batch, device), texts.what)
        found[places] = mean(vectors.float(), mask).cpu()
    return found


def half(device: torch.device, precision: str) -> torch.autocast:
    """Mixed precision for the bfloat16 kinds of ``precision``, which are named as the Trainer's."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision.startswith("bf16"))
