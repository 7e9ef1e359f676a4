from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from rwkd_lightning.data import tweets
from rwkd_lightning.data.glue import GLUE, load_glue
from rwkd_lightning.data.splits import stratified_group_split
from rwkd_lightning.data.tweets import load_tweets
from rwkd_lightning.errors import UserError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep the tests' tables out of the user's cache."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


def test_no_group_on_both_sides_and_classes_kept():
    """Prevents a leak: the same sentence pair as training row and as meta row."""
    rng = np.random.default_rng(0)
    for seed in range(10):
        groups = [(str(g),) for g in rng.integers(0, 60, size=200)]
        labels = rng.choice(3, p=[0.9, 0.08, 0.02], size=200)
        rest, held = stratified_group_split(groups, labels, 0.2, seed)
        assert sorted([*rest, *held]) == list(range(200))
        assert not {groups[i] for i in rest} & {groups[i] for i in held}
        for label in range(3):
            if len({g for g, y in zip(groups, labels, strict=True) if y == label}) >= 2:
                assert (labels[held] == label).any()


def test_split_keeps_the_shares_and_repeats_by_seed():
    """Prevents a meta split with other class shares, and one that changes between runs."""
    labels = np.array([0] * 300 + [1] * 100)
    first, again, other = (stratified_group_split(range(400), labels, 0.1, seed)[1] for seed in (3, 3, 4))
    assert Counter(labels[first].tolist()) == {0: 30, 1: 10}
    assert (first == again).all() and (first != other).any()


@pytest.mark.parametrize("fraction", [0, -0.1, 0.51, float("nan")])
def test_fraction_out_of_range(fraction):
    """Prevents an empty meta split, or one that eats the training rows."""
    with pytest.raises(UserError, match="data.meta_fraction"):
        stratified_group_split(range(4), np.array([0, 1, 0, 1]), fraction, 0)


def write_glue(root, names=("not_equivalent", "equivalent"), **rename):
    """Write a tiny mrpc and stsb in the hub's layout, with one pair that occurs four times."""
    header = ["---", "configs:"]
    for task, label in (("mrpc", ClassLabel(names=list(names))), ("stsb", Value("float32"))):
        header += [f"- config_name: {task}", "  data_files:"]
        (root / task).mkdir(parents=True)
        features = {"sentence1": Value("string"), "sentence2": Value("string"), "label": label, "idx": Value("int32")}
        for split, n in (("train", 60), ("validation", 8)):
            texts = [f"{split} {i if i > 3 else 0}" for i in range(n)]
            labels = [float(i % 6) if task == "stsb" else int(i % 3 > 0) for i in range(n)]
            columns = {"sentence1": texts, "sentence2": texts, "label": labels, "idx": list(range(n))}
            rows = Dataset.from_dict(columns, features=Features(features)).rename_columns(rename)
            rows.to_parquet(root / task / f"{split}-00000-of-00001.parquet")
            header.append(f"  - {{split: {split}, path: {task}/{split}-*}}")
    (root / "README.md").write_text("\n".join([*header, "---", "# glue", ""]))


def test_glue_from_a_local_directory(tmp_path, monkeypatch):
    """Prevents shifted labels, lost rows and a meta split that overlaps with the training rows."""
    monkeypatch.chdir(tmp_path)
    write_glue(tmp_path / "glue")
    data = load_glue("mrpc", path="glue", meta_fraction=0.2)
    assert data.splits["teacher_train"] is data.splits["train"]
    train, meta = data.splits["train"][:], data.splits["meta"][:]
    assert sorted(train["idx"] + meta["idx"]) == list(range(60))
    assert not set(train["sentence1"]) & set(meta["sentence1"])
    for rows in (train, meta):
        assert rows["label"] == [int(i % 3 > 0) for i in rows["idx"]]
    assert Counter(meta["label"]) == {0: 4, 1: 8}
    assert load_glue("mrpc", path="./glue", meta_fraction=0.2).fingerprint("meta") == data.fingerprint("meta")

    scores = load_glue("stsb", path=str(tmp_path / "glue")).splits
    assert scores["train"].features["label"].dtype == "float32" and len(scores["validation"]) == 8


def test_glue_mistakes_are_named(tmp_path, monkeypatch):
    """Prevents training with swapped label names, or a traceback where the hub is out of reach."""
    monkeypatch.chdir(tmp_path)
    write_glue(tmp_path / "swapped", names=("equivalent", "not_equivalent"))
    write_glue(tmp_path / "renamed", sentence1="premise")
    (tmp_path / "bare").mkdir()
    for path, words in (("swapped", "label names"), ("renamed", "sentence1"), ("bare", "bare"), ("./no", "./no")):
        with pytest.raises(UserError, match=words) as error:
            load_glue("mrpc", path=path)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="cola, sst2, mrpc"):
        load_glue("mprc")

    def offline(*args):
        raise ConnectionError("Couldn't reach the Hub\nmore")

    monkeypatch.setattr("datasets.load_dataset", offline)
    with pytest.raises(UserError, match=r"data.path=DIR.*task=tweets") as error:
        load_glue("mrpc")
    assert "\n" not in str(error.value)


def test_glue_table():
    """Prevents that a task is scored by another metric than GLUE's, or on one half of MNLI."""
    assert list(GLUE) == ["cola", "sst2", "mrpc", "qqp", "mnli", "qnli", "rte", "stsb", "wnli"]
    assert GLUE["mnli"].evaluation_splits == ("validation_matched", "validation_mismatched")
    assert [t for t in GLUE if GLUE[t].is_regression] == ["stsb"]
    assert GLUE["wnli"].label_names == GLUE["rte"].label_names[::-1]
    assert {t.monitor for t in GLUE.values()} == {"matthews", "accuracy", "f1", "pearson"}
    assert GLUE["cola"].metrics == ("matthews",)


SIZES = {"teacher_train": 20, "train": 15, "meta": 9, "validation": 5, "test": 5}


def write_tweets(path, extra=()):
    words = ("negative", "neutral", "positive")
    lines = [f"{words[i % 3]},0.5,tweet number {i}" for i in range(60)]
    lines += ["negative,1,twice said", "neutral,1, twice said ", "positive,1,  ", "positive,1,null", 'neutral,1,"a\nb"']
    lines += ["neutral,1,tweet number 1", "positive,1,caf\xe9", *extra]
    path.write_bytes("\n".join(["sentiment,confidence,text", *lines, ""]).encode("latin-1"))
    return str(path)


def test_tweets_are_distinct_unambiguous_and_disjoint(tmp_path):
    """Prevents that a tweet is in two parts, or keeps one of two labels that contradict each other."""
    path = write_tweets(tmp_path / "tweets.csv")
    data = load_tweets(path, SIZES | {"train": 24})  # 63 = every distinct tweet
    rows = [row for part in data.splits.values() for row in part]
    by_idx = {row["idx"]: (row["text"], row["label"]) for row in rows}
    expected = {i: (f"tweet number {i}", i % 3) for i in range(60)}
    assert by_idx == expected | {63: ("null", 2), 64: ("a\nb", 1), 66: ("café", 2)}
    assert {name: len(part) for name, part in data.splits.items()} == SIZES | {"train": 24}

    first, again, other = (load_tweets(path, SIZES, split_seed=seed) for seed in (0, 0, 1))
    assert first.fingerprint("train") == again.fingerprint("train") != other.fingerprint("train")


def test_tweets_mistakes_are_named(tmp_path, monkeypatch):
    """Prevents an unknown label word that silently becomes a class, and parts smaller than asked for."""
    path = write_tweets(tmp_path / "bad.csv", extra=["angry,1,grr"])
    with pytest.raises(UserError, match="'angry' in line 70"):
        load_tweets(path, SIZES)
    assert Path(path).read_text("latin-1").splitlines()[69].startswith("angry")
    good = write_tweets(tmp_path / "good.csv")
    with pytest.raises(UserError, match="ask for 104 tweets.* has 63"):
        load_tweets(good, SIZES | {"train": 65})
    with pytest.raises(UserError, match="'dev'"):
        load_tweets(good, {"dev": 3})
    with pytest.raises(UserError, match="nowhere.csv"):
        load_tweets("nowhere.csv")
    monkeypatch.setattr(tweets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"rwkd_lightning\[offline\].*data.path"):
        load_tweets()
