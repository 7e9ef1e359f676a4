from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from rwkd_lightning.data.splits import stratified_group_split
from rwkd_lightning.systems.text.data import tweets
from rwkd_lightning.systems.text.data.glue import GLUE, load_glue
from rwkd_lightning.systems.text.data.tweets import load_tweets
from rwkd_lightning.utils.errors import UserError


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


PAIR = ("sentence1", "sentence2")
HUB = {  # columns and label names as the hub documents them
    "cola": (("sentence",), ("unacceptable", "acceptable")),
    "sst2": (("sentence",), ("negative", "positive")),
    "mrpc": (PAIR, ("not_equivalent", "equivalent")),
    "qqp": (("question1", "question2"), ("not_duplicate", "duplicate")),
    "mnli": (("premise", "hypothesis"), ("entailment", "neutral", "contradiction")),
    "qnli": (("question", "sentence"), ("entailment", "not_entailment")),
    "rte": (PAIR, ("entailment", "not_entailment")),
    "stsb": (PAIR, None),
    "wnli": (PAIR, ("not_entailment", "entailment")),
    "ax": (("premise", "hypothesis"), ("entailment", "neutral", "contradiction")),
}


def hub_split(task, split, n, names=None):
    """`n` distinct rows as the hub has them; train holds its first four texts four times."""
    columns, labels = HUB[task]
    label = Value("float32") if labels is None else ClassLabel(names=list(names or labels))
    features = {name: Value("string") for name in columns} | {"label": label, "idx": Value("int32")}
    texts = {name: [f"{task} {split} {name} {i if i > 3 else 0}" for i in range(n)] for name in columns}
    numbers = [i % 51 / 10 if labels is None else i % len(labels) for i in range(n)]
    return Dataset.from_dict({**texts, "label": numbers, "idx": list(range(n))}, features=Features(features))


def write(root, task, split, rows):
    (root / task).mkdir(parents=True, exist_ok=True)
    rows.to_parquet(root / task / f"{split}-00000-of-00001.parquet")


def evaluation_splits(task):
    return ["validation_matched", "validation_mismatched"] if task == "mnli" else ["validation"]


def hidden_splits(task):
    return ["test_matched", "test_mismatched", "ax"] if task == "mnli" else ["test"]


@pytest.mark.parametrize("task", list(GLUE))
def test_each_glue_task_from_a_local_directory(task, tmp_path, monkeypatch):
    """Prevents lost rows, shifted labels, a label order other than the hub's, and a meta text that is a training text
    too.
    """
    monkeypatch.chdir(tmp_path)
    columns, names = HUB[task]
    sources = {
        split: hub_split(task, split, 204 if split == "train" else 9) for split in ["train", *evaluation_splits(task)]
    }
    for split, rows in sources.items():
        write(tmp_path / "glue", task, split, rows)
    before = sorted(tmp_path.rglob("*"))
    data = load_glue(task, path="glue", meta_fraction=0.2)
    assert sorted(tmp_path.rglob("*")) == before and data.task.label_names == names and data.task.hidden_splits == ()
    assert list(data.splits) == ["teacher_train", "train", "meta", *evaluation_splits(task)]
    assert data.splits["teacher_train"] is data.splits["train"]

    train, meta = data.splits["train"].to_list(), data.splits["meta"].to_list()
    assert (
        sorted(train + meta, key=lambda row: row["idx"]) == sources["train"].select_columns(data.task.columns).to_list()
    )
    assert not {tuple(row[c] for c in columns) for row in train} & {tuple(row[c] for c in columns) for row in meta}
    shares = Counter(round(row["label"]) for row in sources["train"])
    assert all(abs(Counter(round(row["label"]) for row in meta)[y] - 0.2 * n) < 1 for y, n in shares.items())
    for split in evaluation_splits(task):
        assert data.splits[split].to_list() == sources[split].select_columns(data.task.columns).to_list()
    again = load_glue(task, path=str(tmp_path / "glue"), meta_fraction=0.2)
    assert again.fingerprint("meta") == data.fingerprint("meta")


@pytest.mark.parametrize("task", list(GLUE))
def test_leaderboard_splits_carry_no_labels(task, tmp_path):
    """Prevents that a run sees the labels of a test split, or predicts another split than the one it names."""
    for split in ["train", *evaluation_splits(task)]:
        write(tmp_path, task, split, hub_split(task, split, 204))
    for split in hidden_splits(task):
        source, name = ("ax", "test") if split == "ax" else (task, split)
        write(tmp_path, source, name, hub_split(source, name, 7))  # with labels, as the file of mrpc
    data = load_glue(task, path=str(tmp_path), leaderboard=True)
    assert list(data.task.hidden_splits) == hidden_splits(task) and data.task.metrics == GLUE[task].metrics
    for split in hidden_splits(task):
        labels = data.splits[split].with_format("numpy")["label"][:]
        assert np.isnan(labels).all() if task == "stsb" else (labels == -1).all()
        source, name = ("ax", "test") if split == "ax" else (task, split)
        for column in HUB[task][0]:
            assert list(data.splits[split][column]) == list(hub_split(source, name, 7)[column])


def test_glue_from_the_hub(monkeypatch):
    """Prevents that the hub's data are cut otherwise than the same data on disk, or that ax is taken from another
    config.
    """

    def load_dataset(path, config):
        assert path == "nyu-mll/glue"
        splits = (
            ["test"] if config == "ax" else ["train", *evaluation_splits(config), "test_matched", "test_mismatched"]
        )
        return DatasetDict({split: hub_split(config, split, 204) for split in splits})

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    data = load_glue("mnli", leaderboard=True)
    assert data.splits["ax"]["premise"][5] == "ax test premise 5"
    assert data.splits["validation_mismatched"]["premise"][5] == "mnli validation_mismatched premise 5"
    assert load_glue("mnli").fingerprint("meta") == data.fingerprint("meta")


@pytest.mark.parametrize("shared", PAIR)
def test_rows_that_share_one_text_of_two_are_cut_freely(tmp_path, shared):
    """Prevents that pairs are grouped by one of their texts, which would make another meta split or none."""
    rows = hub_split("rte", "train", 200).to_dict()
    columns = {name: [f"{name} {i}" for i in range(200)] for name in PAIR} | {shared: ["the same"] * 200}
    features = hub_split("rte", "train", 1).features
    write(tmp_path, "rte", "train", Dataset.from_dict(rows | columns, features=features))
    write(tmp_path, "rte", "validation", hub_split("rte", "validation", 9))
    assert len(load_glue("rte", path=str(tmp_path), meta_fraction=0.2).splits["meta"]) == 40


def test_shards_are_read_in_their_order(tmp_path):
    """Prevents that only the first of several files is read."""
    rows = hub_split("cola", "train", 204)
    write(tmp_path, "cola", "validation", hub_split("cola", "validation", 9))
    for i in range(3):
        rows.select(range(i * 68, i * 68 + 68)).to_parquet(tmp_path / "cola" / f"train-0000{i}-of-00003.parquet")
    data = load_glue("cola", path=str(tmp_path))
    assert sorted([*data.splits["train"]["idx"], *data.splits["meta"]["idx"]]) == list(range(204))


def test_glue_mistakes_are_named(tmp_path, monkeypatch):
    """Prevents training with swapped label names, or a traceback where the hub is out of reach."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "swapped", "mrpc", "train", hub_split("mrpc", "train", 9, names=("equivalent", "not_equivalent")))
    write(tmp_path / "swapped", "mrpc", "validation", hub_split("mrpc", "validation", 9))
    for path, words in (("swapped", "label names"), ("./no", "./no")):
        with pytest.raises(UserError, match=words) as error:
            load_glue("mrpc", path=path)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="cola, sst2, mrpc"):
        load_glue("mprc")
    with pytest.raises(UserError, match="^data.meta_fraction is 0"):
        write(tmp_path / "swapped", "mrpc", "train", hub_split("mrpc", "train", 9))
        load_glue("mrpc", path="swapped", meta_fraction=0)

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


def test_tweets_are_distinct_unambiguous_and_disjoint(tmp_path, caplog):
    """Prevents that a tweet is in two parts, or keeps one of two labels that contradict each other, and silence about
    it.
    """
    path = write_tweets(tmp_path / "tweets.csv")
    with caplog.at_level("INFO", "rwkd_lightning"):
        load_tweets(path, SIZES)
    assert (
        f"{path}: 4 of 67 rows are left out (no text, a text of an earlier row, or one with two sentiments)"
        in caplog.text
    )
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
