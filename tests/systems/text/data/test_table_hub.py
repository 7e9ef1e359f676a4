"""Datasets of the hub as tables. There is no hub here: ``datasets`` loads folders of the same layout."""

from __future__ import annotations

import os
from pathlib import Path

import datasets
import pytest

from rwkd_lightning.systems.text.data.table import load_table
from rwkd_lightning.systems.text.data.task import column
from rwkd_lightning.utils.errors import UserError


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """OWNER/NAME with train and test, a class by number, and lists of classes."""
    names = datasets.ClassLabel(names=["no", "yes"])
    features = datasets.Features({"body": datasets.Value("string"), "kind": names, "kinds": datasets.Sequence(names)})
    folder = tmp_path / "OWNER/NAME/data"
    folder.mkdir(parents=True)
    for split, size in (("train", 60), ("test", 12)):
        rows = {
            "body": [f"{split} {i}" for i in range(size)],
            "kind": [i % 2 if i != 3 or split == "test" else -1 for i in range(size)],
            "kinds": [[0, 1] if i % 3 == 0 else [i % 2] for i in range(size)],
        }
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def test_classes_have_their_names(hub: Path) -> None:
    """Prevents: classes called 0 and 1, a row without a label as a class, the training rows in place of the test's."""
    data = load_table("hub:OWNER/NAME", "body", "kind", test="hub:OWNER/NAME")
    assert data.task.label_names == ("no", "yes") and list(data.splits["test"]["body"]) == [
        f"test {i}" for i in range(12)
    ]
    assert column(data.splits["test"], "label").tolist() == [0, 1] * 6
    labels = dict(zip(data.splits["train"]["body"], data.splits["train"]["label"], strict=True))
    assert labels["train 3"] == -1 and sum(label == -1 for label in labels.values()) == 1
    same = load_table(
        "hub:OWNER/NAME:test", "body", "kind", meta_fraction=0.2, validation_fraction=0.2, test_fraction=0.2
    )
    assert all(text.startswith("test ") for text in same.splits["train"]["body"])
    several = load_table("hub:OWNER/NAME", "body", "kinds", multilabel=True)
    assert several.task.label_names == ("no", "yes") and sorted(several.task.label_sets or ()) == [(0,), (0, 1), (1,)]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("hub:NAME", r"is no dataset of the hub; write hub:OWNER/NAME, or hub:OWNER/NAME/CONFIG:SPLIT"),
        (
            "hub:OWNER/NAME:dev",
            r"the hub did not give split 'dev' \(ValueError: .*name another split as hub:OWNER/NAME:SP",
        ),
        ("hub:OWNER/OTHER", r"the hub did not give split 'train' \(.*or download it elsewhere and give its files"),
    ],
)
def test_what_the_hub_does_not_give(hub: Path, path: str, said: str) -> None:
    """Prevents: a traceback of the hub's client."""
    with pytest.raises(UserError, match=said) as caught:
        load_table(path, "body", "kind")
    assert "\n" not in str(caught.value)


def test_columns_are_checked(hub: Path) -> None:
    """Prevents: KeyError for a column that the dataset lacks."""
    with pytest.raises(
        UserError, match=r"data.train='hub:OWNER/NAME' has no column 'text'; its columns are body, kind"
    ):
        load_table("hub:OWNER/NAME", "text", "kind")
    assert os.environ["HF_HUB_OFFLINE"] == "1"
