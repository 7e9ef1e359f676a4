"""Tiny tagged sentences, and a tiny BERT that reads their words in parts, so that runs last seconds."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from rwkd_lightning.export.__main__ import main
from tests.export.conftest import said
from tests.run.test_pipeline_run import finished

__all__ = ["said"]

PEOPLE = ["Ann Lee", "Bob", "Kim", "Eve Mae"]
PLACES = ["Rome", "Bonn", "Oslo Bay"]
OTHERS = ["the", "a", "went", "to", "saw", "in", "and", "likes"]
PARTS = sorted({part for words in (*PEOPLE, *PLACES) for word in words.split() for part in (word[0], f"##{word[1:]}")})


def write_columns(path: Path, count: int, seed: int) -> Path:
    """Sentences of entities and others, a word a line."""
    draw, lines = random.Random(seed), []
    for number in range(count):
        words = [(f"w{(number * 7 + seed) % 40}", "O")]
        for _ in range(draw.randint(1, 3)):
            kind, names = draw.choice([("PER", PEOPLE), ("LOC", PLACES)])
            words += [(word, f"{'I' if i else 'B'}-{kind}") for i, word in enumerate(draw.choice(names).split())]
            words += [(draw.choice(OTHERS), "O") for _ in range(draw.randint(1, 3))]
        lines += [f"{word} X {tag}" for word, tag in words] + [""]
    path.write_text("\n".join(lines))
    return path


def tokenizer() -> Any:
    """Word pieces: every name is two tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *OTHERS, *(f"w{i}" for i in range(40)), *PARTS]
    made = Tokenizer(models.WordPiece({w: i for i, w in enumerate(dict.fromkeys(words))}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **special, model_max_length=64)


def write_backbone(folder: Path) -> Path:
    """A random two-block BERT."""
    from transformers import BertConfig, BertModel

    words = tokenizer()
    words.save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(words),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=64,
        )
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def conll(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training file."""
    return write_columns(tmp_path_factory.mktemp("conll") / "train.conll", 96, 0)


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_backbone(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def token_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all runs: one teacher."""
    return tmp_path_factory.mktemp("cache")


def overrides(conll: Path, bert: Path, cache: Path, runs: Path) -> list[str]:
    """For `train.py`: any run lasts seconds."""
    return [
        "task=tokens",
        f"data.train={conll}",
        f"pair.teacher.path={bert}",
        f"pair.student.path={bert}",
        "pair.student.layers=[1]",
        "pair.teacher.epochs=4",
        "pair.teacher.lr=5e-3",
        "optimizer.lr=5e-3",
        "data.max_length=24",
        "data.batch_size=16",
        "meta.batch_size=4",
        "trainer.max_epochs=2",
        "trainer.accelerator=cpu",
        f"cache_dir={cache}",
        f"runs_dir={runs}",
    ]


@pytest.fixture
def tiny(conll: Path, bert: Path, token_cache: Path, tmp_path: Path) -> list[str]:
    """Overrides that make any run last seconds."""
    return overrides(conll, bert, token_cache, tmp_path / "runs")


@pytest.fixture(scope="session")
def token_run(conll: Path, bert: Path, token_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose student has learnt its tags."""
    folder = tmp_path_factory.mktemp("tagger")
    more = ["weighting=kd", "pair.student.layers=null", "trainer.max_epochs=6"]
    finished(overrides(conll, bert, token_cache, folder), folder / "run", *more)
    return folder / "run"


@pytest.fixture(scope="session")
def token_export(token_run: Path) -> Path:
    """Its export in the default place."""
    assert main([str(token_run), "--int8", "--compare"]) == 0
    return token_run / "export"
