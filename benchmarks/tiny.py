"""A random BERT, small enough for tests and for counts."""

from __future__ import annotations

from typing import Any

import torch

from rwkd_lightning.systems.text.models import Classifier


def bert(seed: int = 0, dropout: float = 0.1, **options: Any) -> Classifier:
    """Two blocks of width 32, 100 words, three classes, where ``options`` of ``BertConfig`` say nothing else; in
    training mode.
    """
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(**{
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
        "vocab_size": 100, "max_position_embeddings": 32, "num_labels": 3, "initializer_range": 0.2,
        "hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout, **options,
    })  # fmt: skip
    torch.manual_seed(seed)
    return Classifier(BertForSequenceClassification(config)).train()
