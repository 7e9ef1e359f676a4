"""Tiny documents whose summaries can be learnt, and a tiny new model, so that runs last seconds."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

THINGS = ["lamp", "door", "tree", "boat", "clock", "fence", "bridge", "kettle"]
VERBS = ["opens", "breaks", "moves", "sings", "shines", "falls"]
FILLER = ["slowly", "today", "again", "outside", "quietly", "near the river", "for an hour", "in the rain"]


def write_rows(folder: Path, count: int = 120) -> Path:
    """Documents of three to five sentences; the summary is the first one's thing and verb."""
    draw = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(count):
        thing, verb = THINGS[i % 8], VERBS[i // 8 % 6]
        first = f"The {thing} {verb} {draw.choice(FILLER)}."
        others = [f"It {draw.choice(VERBS)} {draw.choice(FILLER)}." for _ in range(2 + i % 3)]
        rows.append({"document": " ".join([first, *others, f"Number {i}."]), "summary": f"{thing} {verb}"})
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


@pytest.fixture(scope="session")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory; not to be written to."""
    return write_rows(tmp_path_factory.mktemp("documents") / "tiny")


@pytest.fixture(scope="session")
def summary_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all runs: one tokenizer and one teacher."""
    return tmp_path_factory.mktemp("cache")


def overrides(documents: Path, cache: Path) -> list[str]:
    sizes = "{width: 16, encoder_layers: 1, decoder_layers: 2, heads: 2, ffn: 32, dropout: 0.1}"
    return [
        "task=summaries",
        f"data.path={documents}",
        f"pair.teacher.model={sizes}",
        "pair.teacher.epochs=2",
        "pair.teacher.passes=2",
        "pair.teacher.top_k=8",
        "data.vocabulary=360",
        "data.document_length=40",
        "data.summary_length=8",
        "data.batch_size=16",
        "data.decoding.beams=2",
        "optimizer.lr=3e-3",
        "trainer.max_epochs=2",
        "trainer.accelerator=cpu",
        f"cache_dir={cache}",
    ]


@pytest.fixture
def tiny(documents: Path, summary_cache: Path, tmp_path: Path) -> list[str]:
    """Overrides that make any run last seconds."""
    return [*overrides(documents, summary_cache), f"runs_dir={tmp_path / 'runs'}"]
