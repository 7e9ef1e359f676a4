"""A student whose word table is small, as the config asks for it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from rwkd_lightning.systems.text.compression.compress import compress
from rwkd_lightning.systems.text.compression.low_rank import Array
from rwkd_lightning.systems.text.compression.module import FactoredEmbedding
from rwkd_lightning.systems.text.compression.scores import MANY, fisher, frequency, tfidf
from rwkd_lightning.systems.text.compression.table import Factored
from rwkd_lightning.systems.text.data.task import TaskData, column, table_of
from rwkd_lightning.systems.text.models.classifier import Classifier
from rwkd_lightning.utils.errors import UserError

log = logging.getLogger(__name__)
KEY = "pair.student.embedding"
DEFAULTS: Mapping[str, Any] = {"method": "blocks", "ratio": 10, "scores": "frequency", "blocks": 5, "refine": "none"}


def small(config: DictConfig, data: TaskData, student: Classifier, tokenizer: Any) -> Classifier:
    """The student, its word table exchanged for factors where ``pair.student.embedding`` asks for it.

    Raises:
        UserError: as `compress`; for a student without a word table, and for scores that need a trained head.
    """
    given = OmegaConf.select(config, KEY)
    if given is None:
        return student
    settings = {**DEFAULTS, **given}
    if settings["scores"] == "fisher" and config.pair.student.path != "teacher":
        raise UserError(
            f"{KEY}.scores=fisher reads the loss of a trained classifier, and this student's head begins at random; "
            f"use {KEY}.scores=frequency, pair.student.path=teacher, or compress the finished run"
        )
    made = exchanged(student, tokenizer, data, settings, config.data.max_length)
    log.info("student: %s", told(made, settings))
    return student


def exchanged(
    student: Classifier, tokenizer: Any, data: TaskData, settings: Mapping[str, Any], max_length: int
) -> Factored:
    """Put factors in the place of the student's word table; the factors."""
    network: Any = student.network
    try:
        module = network.get_input_embeddings()
    except NotImplementedError:
        module = None
    kind = network.config.model_type
    if not isinstance(module, torch.nn.Embedding) or type(module).forward is not torch.nn.Embedding.forward:
        raise UserError(f"{KEY}: a {kind} has no plain word table to compress; set {KEY}=null")
    holders = [
        name
        for name, one in network.named_modules(remove_duplicate=False)
        if getattr(one, "weight", None) is module.weight
    ]
    if len(holders) > 1:
        raise UserError(
            f"{KEY}: a {kind} holds one word table in several places ({', '.join(holders[:3])}), of which one alone "
            f"would be small; set {KEY}=null"
        )
    table = module.weight.detach().double().cpu().numpy()
    scores = scores_of(settings["scores"], student, tokenizer, data, len(table), max_length)
    refine = settings["refine"] == "move"
    whole = [i for i in tokenizer.all_special_ids if i < len(table)]
    made = compress(table, scores, settings["ratio"], settings["method"], settings["blocks"], whole, refine)
    network.set_input_embeddings(FactoredEmbedding.of(made, module.padding_idx).to(module.weight))
    return made


def scores_of(name: str, student: Classifier, tokenizer: Any, data: TaskData, words: int, max_length: int) -> Array:
    """The words' scores, from the training texts."""
    rows = data.splits["train"]
    every = np.arange(0, len(rows), max(1, -(-len(rows) // MANY)))
    table = table_of(rows).take(every)
    texts = [table[name].to_pylist() for name in data.task.text_columns]
    ids = tokenizer(*texts, truncation=True, max_length=max_length)["input_ids"]
    if name == "fisher":
        labels = torch.from_numpy(data.task.targets(column(rows, "label")))[every]
        known = (labels >= 0 if labels.ndim == 1 else (labels >= 0).all(1)).nonzero().flatten().tolist()
        return fisher(student, tokenizer, [ids[i] for i in known], labels[known])
    if name == "tfidf":
        return tfidf(ids, words)
    counts = frequency(ids, words)
    return np.random.default_rng(0).permutation(counts) if name == "shuffled" else counts


def told(made: Factored, settings: Mapping[str, Any]) -> str:
    """A line that says what became of the table."""
    words, width = made.shape
    blocks = ", ".join(
        f"{len(b.words):,} {'whole' if b.maps is None else f'of rank {b.maps.shape[1]}'}" for b in made.blocks
    )
    return (
        f"word table of {words * width * 4 / 2**20:.1f} MiB in {made.bytes / 2**20:.2f} MiB by "
        f"{settings['method']}, scores by {settings['scores']} (words: {blocks})"
    )
