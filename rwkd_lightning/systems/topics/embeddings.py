"""Sentence embeddings of a corpus, computed once for all runs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rwkd_lightning.cache.store import Store, digest, tensors
from rwkd_lightning.systems.topics.encoder import encoder_digest, load_encoder
from rwkd_lightning.systems.topics.needs import needed
from rwkd_lightning.utils import bars
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.model_files import find

log = logging.getLogger(__name__)
FILE = "embeddings.safetensors"
_FORMAT = 1  # of the kept file; another one makes each kept file stale


def embeddings(
    texts: Sequence[str], fingerprint: str, encoder: str, store: Store, device: torch.device | str
) -> Tensor:
    """The encoder's sentence embedding of each text: ``(N, E)`` float32 on the CPU, kept in the store.

    Kept by the texts and the encoder's files, which also say at how many tokens it cuts a text; one log line says how
    many were cut. The global random numbers stay as they are.

    Args:
        fingerprint: of the corpus, to name it in the list of the cache; no part of the key.
        encoder: as `models.source.find` takes it, in the format of sentence-transformers.

    Raises:
        UserError: if the encoder cannot be had or loaded, or gives a text a number that is not finite.
    """
    folder = find(encoder)
    key = {
        "format": _FORMAT,
        "texts": digest(list(texts)),
        "encoder": encoder_digest(folder, encoder),
        "device": torch.device(device).type,
    }

    def build(part: Path) -> None:
        needed("safetensors.torch").save_file({"embeddings": _embed(texts, folder, encoder, device)}, part / FILE)

    kept = store.get("embeddings", key, build, f"{len(texts)} documents of corpus {fingerprint[:8]} by {encoder}")
    return tensors(kept / FILE, {"embeddings": (len(texts), None)})["embeddings"]


def _embed(texts: Sequence[str], folder: Path, encoder: str, device: torch.device | str) -> Tensor:
    with torch.random.fork_rng(devices=[]):  # a loaded network is first filled with random numbers
        model = load_encoder(folder, encoder, device)
        _tell_cut(texts, model)
        found: Tensor = model.encode(list(texts), show_progress_bar=bars.shown(), convert_to_tensor=True).float().cpu()
    wrong = (~found.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if wrong:
        raise UserError(
            f"encoder {encoder!r} gives document {wrong[0]} ({texts[wrong[0]][:60]!r}) an embedding that is not "
            f"finite ({len(wrong)} documents in all); its weights are broken, fetch them again"
        )
    return found.contiguous()


def _tell_cut(texts: Sequence[str], model: Any) -> None:
    length = model.max_seq_length
    if length is None:
        return
    ids = model.tokenizer(list(texts), truncation=False, padding=False, return_attention_mask=False)["input_ids"]
    cut = sum(len(row) > length for row in ids)
    log.info(
        "embedding %d documents, %d of them (%.1f%%) cut at %d tokens", len(texts), cut, 100 * cut / len(texts), length
    )
