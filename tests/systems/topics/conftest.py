"""A sentence encoder and a corpus, both tiny."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel

from rwkd_lightning.systems.topics.encoder import load_encoder
from rwkd_lightning.systems.topics.model import Shape, TopicModel, save
from tests.systems.text.models.conftest import tokenizer

THEMES = {
    "sea": ["boat", "wave", "fish", "sail", "harbour", "tide"],
    "city": ["street", "tram", "house", "square", "shop", "tower"],
    "farm": ["cow", "field", "plough", "barn", "wheat", "horse"],
}


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A random network with the mean of its tokens as embedding, cut at 5 tokens."""
    folder = tmp_path / "encoder"
    write_encoder(folder)
    return folder


def write_encoder(folder: Path) -> None:
    """Write it there."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "bert",
        vocab_size=24,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
        initializer_range=0.5,
    )
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps(
            {
                "word_embedding_dimension": 16,
                "pooling_mode_cls_token": False,
                "pooling_mode_mean_tokens": True,
                "pooling_mode_max_tokens": False,
                "pooling_mode_mean_sqrt_len_tokens": False,
            }
        )
    )
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 5, "do_lower_case": false}')
    parts = [("", "Transformer"), ("1_Pooling", "Pooling")]
    (folder / "modules.json").write_text(
        json.dumps(
            [
                {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
                for i, (path, kind) in enumerate(parts)
            ]
        )
    )


@pytest.fixture
def octis(tmp_path: Path) -> Path:
    """90 documents of three themes in OCTIS format."""
    folder = tmp_path / "three"
    folder.mkdir()
    write_octis(folder)
    return folder


def write_octis(folder: Path) -> None:
    """Write them there."""
    draw, rows = random.Random(0), []
    for number in range(90):
        theme = sorted(THEMES)[number % 3]
        others = [word for words in THEMES.values() for word in words]
        words = [draw.choice(THEMES[theme] if draw.random() < 0.85 else others) for _ in range(draw.randint(5, 9))]
        rows.append(f"{' '.join(words)}\ttrain\t{theme}")
    (folder / "corpus.tsv").write_text("\n".join(rows) + "\n")
    (folder / "vocabulary.txt").write_text("\n".join(word for words in THEMES.values() for word in words) + "\n")


@pytest.fixture
def shipped(tmp_path: Path, encoder: Path) -> Path:
    """The folder of a student of three topics whose running statistics are those of some documents."""
    folder = tmp_path / "student"
    folder.mkdir()
    torch.manual_seed(2)
    model = TopicModel(Shape(6, 3, 16, 0, False)).train()
    embedded = (
        load_encoder(encoder, str(encoder), "cpu")
        .encode([f"w{i % 16} w{i * i % 16}" for i in range(60)], convert_to_tensor=True)
        .clone()
    )
    with torch.no_grad():
        for _ in range(40):
            model({"embeddings": embedded})
    save(model, folder)
    (folder / "vocabulary.txt").write_text("".join(f"{word}\n" for word in THEMES["sea"]))
    (folder / "encoder.json").write_text(json.dumps({"encoder": str(encoder)}))
    return folder
