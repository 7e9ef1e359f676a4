"""A tiny collection in BEIR's layout, and a tiny BERT that reads its words, so that runs last seconds."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_bert import write_bert

SUBJECTS = [f"s{i}" for i in range(30)]
WORDS = [f"w{i}" for i in range(40)]


def write_collection(folder: Path, queries: int = 100, documents: int = 60) -> Path:
    """Documents of a subject and words; a query names the subject of its documents; three splits."""
    draw = random.Random(0)
    folder.mkdir(parents=True)
    texts = [[SUBJECTS[i % 30], *draw.sample(WORDS, 6 + i % 4)] for i in range(documents)]
    with (folder / "corpus.jsonl").open("w") as file:
        for i, text in enumerate(texts):
            file.write(json.dumps({"_id": f"d{i}", "title": text[0], "text": " ".join(text[1:])}) + "\n")
    qrels: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    with (folder / "queries.jsonl").open("w") as file:
        for i in range(queries):
            relevant = [i % documents] if i % 3 else [i % documents, (i + 30) % documents]
            words = " ".join([SUBJECTS[i % 30], *draw.sample(texts[relevant[0]][1:], 2)])
            file.write(json.dumps({"_id": f"q{i}", "text": words}) + "\n")
            split = "test" if i % 5 == 0 else "dev" if i % 10 == 1 else "train"
            qrels[split] += [f"q{i}\td{d}\t1" for d in relevant]
    (folder / "qrels").mkdir()
    for split, lines in qrels.items():
        (folder / f"qrels/{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n")
    return folder


def write_transformer(folder: Path, blocks: int = 2, dropout: float = 0.1) -> Path:
    """A tiny BERT of the collection's words."""
    return write_bert(folder, [*SUBJECTS, *WORDS], 0.2, blocks, dropout)


@pytest.fixture(scope="session")
def beir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The collection; not to be written to."""
    return write_collection(tmp_path_factory.mktemp("beir") / "tiny")


@pytest.fixture(scope="session")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_transformer(tmp_path_factory.mktemp("transformer"))


@pytest.fixture(scope="session")
def network(transformer: Path) -> Any:
    """Makes the transformer, in float64 and without dropout."""
    from rwkd_lightning.systems.retrieval.encoder import load_transformer

    def make() -> Any:
        return load_transformer(str(transformer)).double().eval()

    return make


@pytest.fixture(scope="session")
def retrieval_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all runs: one teacher."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def tiny(beir: Path, transformer: Path, retrieval_cache: Path, tmp_path: Path) -> list[str]:
    """Overrides that make any run last seconds."""
    return [
        "task=retrieval",
        f"data.path={beir}",
        f"pair.teacher.path={transformer}",
        f"pair.student.path={transformer}",
        "pair.student.layers=[1]",
        "pair.teacher.width=16",
        "pair.teacher.epochs=3",
        "pair.teacher.lr=2e-3",
        "optimizer.lr=2e-3",
        "data.query_length=12",
        "data.document_length=16",
        "data.batch_size=16",
        "data.negative_depth=10",
        "meta.batch_size=4",
        "trainer.max_epochs=2",
        "trainer.accelerator=cpu",
        f"cache_dir={retrieval_cache}",
        f"runs_dir={tmp_path / 'runs'}",
    ]
