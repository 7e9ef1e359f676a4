"""Tiny pictures with texts in the layout of Hateful Memes, a tiny BERT and a tiny image encoder."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from tests.tiny_bert import write_bert

pytest.importorskip("PIL")
COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220)}
WORDS = [f"w{i}" for i in range(30)]
NAMES = [f"{colour}{i}" for colour in COLOURS for i in range(6)]


def write_pairs(folder: Path, sizes: tuple[int, int, int] = (90, 30, 30), several: bool = False) -> Path:
    """A square of a class's colour, noisy, and a text with a word of the class; some rows lack one of the two."""
    from PIL import Image

    draw = random.Random(0)
    (folder / "img").mkdir(parents=True)
    number = 0
    for name, size in zip(("train", "dev", "test"), sizes, strict=True):
        with (folder / f"{name}.jsonl").open("w") as file:
            for row in range(size):
                label = list(COLOURS)[row % 3]
                words = [f"{label}{draw.randrange(6)}", *draw.sample(WORDS, 2 + row % 4)]
                colour = COLOURS[label if draw.random() < 0.9 else draw.choice(list(COLOURS))]
                noisy = tuple(min(255, max(0, c + draw.randrange(-30, 30))) for c in colour)
                Image.new("RGB", (32, 32), noisy).save(folder / f"img/{number}.png")
                entry = {"id": number, "img": f"img/{number}.png", "text": " ".join(words), "label": label}
                if row % 15 == 4:
                    del entry["text"]
                if row % 15 == 9:
                    del entry["img"]
                if several:
                    entry["label"] = [label, "bright"] if row % 2 else [label]  # type: ignore[assignment]
                file.write(json.dumps(entry) + "\n")
                number += 1
    return folder


def write_text_model(folder: Path, blocks: int = 2, dropout: float = 0.1) -> Path:
    """A tiny BERT of the texts' words."""
    return write_bert(folder, [*NAMES, *WORDS], 0.1, blocks, dropout)


def write_image_encoder(folder: Path) -> Path:
    """A random ViT of 32 x 32 pixels in 16 patches."""
    from transformers import ViTConfig, ViTModel

    try:
        from transformers import ViTImageProcessorPil as Processor
    except ImportError:  # before transformers 5
        from transformers import ViTImageProcessor as Processor
    torch.manual_seed(1)
    config = ViTConfig(
        image_size=32,
        patch_size=8,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        initializer_range=0.2,
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    Processor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data; not to be written to."""
    return write_pairs(tmp_path_factory.mktemp("pairs") / "tiny")


@pytest.fixture(scope="session")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_model(tmp_path_factory.mktemp("text_model"))


@pytest.fixture(scope="session")
def image_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_encoder(tmp_path_factory.mktemp("image_encoder"))


@pytest.fixture(scope="session")
def pairs_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all runs: one teacher."""
    return tmp_path_factory.mktemp("cache")


def overrides(pairs: Path, text_model: Path, image_encoder: Path, cache: Path, runs: Path) -> list[str]:
    """What makes any run last seconds."""
    return [
        "task=pairs",
        f"data.path={pairs}",
        f"pair.teacher.path={text_model}",
        f"pair.student.path={text_model}",
        f"pair.encoder.path={image_encoder}",
        "pair.student.layers=[1]",
        "pair.teacher.epochs=6",
        "pair.teacher.lr=3e-3",
        "optimizer.lr=3e-3",
        "data.max_length=12",
        "data.batch_size=16",
        "meta.batch_size=4",
        "trainer.max_epochs=2",
        "trainer.accelerator=cpu",
        f"cache_dir={cache}",
        f"runs_dir={runs}",
    ]


@pytest.fixture
def tiny(pairs: Path, text_model: Path, image_encoder: Path, pairs_cache: Path, tmp_path: Path) -> list[str]:
    return overrides(pairs, text_model, image_encoder, pairs_cache, tmp_path / "runs")
