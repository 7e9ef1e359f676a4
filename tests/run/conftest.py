"""A tiny BERT and a tiny tweet file, so that the whole pipeline runs in seconds."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.run.tiny import WORDS, overrides, write_backbone, write_tweets


@pytest.fixture(scope="session")
def tweets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 texts of three classes."""
    return write_tweets(tmp_path_factory.mktemp("tweets") / "tweets.csv")


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-block BERT."""
    return write_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture
def arguments(tweets: Path, backbone: Path, tmp_path: Path) -> list[str]:
    """Overrides that make any run tiny; cache and runs in the test's own folder."""
    return overrides(tweets, backbone, tmp_path)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all runs that ask nothing of the cache: one teacher."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def warm(arguments: list[str], cache: Path) -> list[str]:
    """The same with the shared cache, where only the first run trains a teacher."""
    return [*arguments, f"cache_dir={cache}"]


@pytest.fixture(scope="session")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """STS-B and MNLI of a hundred rows in the hub's layout, with the hidden test splits and AX."""
    from datasets import ClassLabel, Dataset, Features, Value

    root, draw = tmp_path_factory.mktemp("glue"), random.Random(1)
    names = ["entailment", "neutral", "contradiction"]
    text = [w for group in WORDS.values() for w in group]
    sizes = {
        "stsb": {"train": 96, "validation": 24, "test": 12},
        "mnli": {
            "train": 96,
            "validation_matched": 24,
            "validation_mismatched": 24,
            "test_matched": 12,
            "test_mismatched": 12,
        },
        "ax": {"test": 10},
    }
    for task, splits in sizes.items():
        columns = ("sentence1", "sentence2") if task == "stsb" else ("premise", "hypothesis")
        label = Value("float32") if task == "stsb" else ClassLabel(names=names)
        features = Features({**dict.fromkeys(columns, Value("string")), "label": label, "idx": Value("int32")})
        (root / task).mkdir()
        for split, n in splits.items():
            pairs = [[" ".join(draw.choice(text) for _ in range(6)) for _ in columns] for _ in range(n)]
            shared = [len({*a.split()} & {*b.split()}) for a, b in pairs]
            labels = (
                [-1] * n if "test" in split else [min(5.0, float(k)) if task == "stsb" else min(k, 2) for k in shared]
            )
            rows = {
                columns[0]: [a for a, _ in pairs],
                columns[1]: [b for _, b in pairs],
                "label": labels,
                "idx": list(range(n)),
            }
            Dataset.from_dict(rows, features=features).to_parquet(root / task / f"{split}-00000-of-00001.parquet")
    return root
