"""Files of tagged sentences: what is read, and what is refused."""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path
from typing import Any

import pytest

from rwkd_lightning.systems.tokens.data import key_of, load_tokens
from rwkd_lightning.systems.tokens.reader import Fields, read_sentences
from rwkd_lightning.utils.errors import UserError

GOOD = "-DOCSTART- -X- O\n\nAnn NNP B-PER\nLee NNP I-PER\nran VB O\n\n\nRome NNP B-LOC\n"


def write(folder: Path, text: str, name: str = "a.conll") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def many(count: int = 40, outside: str = "ran") -> str:
    draw = random.Random(0)
    people, places = ["Ann", "Bob", "Eve", "Kim"], ["Rome", "Bonn", "Oslo", "Lima"]
    lines = []
    for number in range(count):
        words = [(draw.choice(people), "B-PER"), (outside, "O"), (f"w{number}", "O"), (draw.choice(places), "B-LOC")]
        lines += [f"{word} {tag}" for word, tag in words] + [""]
    return "\n".join(lines)


@pytest.mark.parametrize("separator", [" ", "\t", "   "])
def test_columns(tmp_path: Path, separator: str) -> None:
    """Prevents: documents' lines taken for words, and a sentence without a blank line at the end lost."""
    path = write(tmp_path, GOOD.replace(" ", separator).replace("\n", "\r\n"))
    found = read_sentences(path, "data.train", Fields())
    assert found.tokens == [["Ann", "Lee", "ran"], ["Rome"]]
    assert found.tags == [["B-PER", "I-PER", "O"], ["B-LOC"]]
    assert found.at(0, 2) == f"data.train={path!r}, line 5"
    other = read_sentences(path, "data.train", Fields(token_column=2, tag_column=1))
    assert other.tokens[0] == ["B-PER", "I-PER", "O"] and other.tags[0] == ["NNP", "NNP", "VB"]


def test_conllu(tmp_path: Path) -> None:
    """Prevents: comments and contracted words of a treebank taken for words."""
    text = "# text = al mar\n1-2\tal\t_\t_\n1\ta\ta\tADP\n2\tel\tel\tDET\n3\tmar\tmar\tNOUN\n\n"
    found = read_sentences(write(tmp_path, text, "a.conllu"), "data.train", Fields(1, 3))
    assert (found.tokens, found.tags) == ([["a", "el", "mar"]], [["ADP", "DET", "NOUN"]])


def test_json_lines(tmp_path: Path) -> None:
    """Prevents: other keys than the named ones."""
    rows = [{"w": ["Ann", "ran"], "t": ["B-PER", "O"], "trust": 0.5}, {"w": ["Rome"], "t": ["B-LOC"], "trust": 1}]
    path = write(tmp_path, "\n".join(map(json.dumps, rows)), "a.jsonl")
    found = read_sentences(path, "data.train", Fields(tokens="w", tags="t", weight="trust"))
    assert (found.tokens, found.tags) == ([["Ann", "ran"], ["Rome"]], [["B-PER", "O"], ["B-LOC"]])
    assert found.weights == [0.5, 1]


BAD: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "ragged": (
        "a.conll",
        "Ann NNP B-PER\nran O\n",
        {},
        "has 2 columns in line 2, line 1 has 3; give each word as many",
    ),
    "no_tag": ("a.conll", "Ann\nran\n", {}, "has no tag in line 1, only 'Ann'"),
    "empty_tag": ("a.conll", "Ann\tB-PER\nran\t \n", {}, "has an empty tag in line 2, column -1"),
    "no_column": ("a.conll", "Ann O\n", {"tag_column": 3}, "data.tag_column=3: .* has 2 columns in line 1"),
    "one_column": ("a.conll", "Ann O\n", {"tag_column": 0}, "give two columns, words and their tags"),
    "empty": ("a.conll", "\n\n", {}, "has no sentence; give a file with some"),
    "empty_json": ("a.jsonl", "", {}, "has no sentence"),
    "lengths": ("a.jsonl", '{"tokens": ["a", "b"], "tags": ["O"]}', {}, "has 2 words and 1 tags in line 1"),
    "no_token": ("a.jsonl", '{"tokens": [], "tags": []}', {}, "has a sentence without a word in line 1; drop the line"),
    "numbers": ("a.jsonl", '{"tokens": ["a"], "tags": [3]}', {}, "has 3 in 'tags' in line 1; .* tags by name"),
    "no_list": ("a.jsonl", '{"tokens": "a b", "tags": ["O"]}', {}, "has a str as 'tokens' in line 1; give a list"),
    "no_key": ("a.jsonl", '{"words": ["a"], "tags": ["O"]}', {}, "has no list as 'tokens'|has no column 'tokens'"),
    "one_key": ("a.jsonl", "{}", {"tags": "tokens"}, "give two keys"),
    "weight": ("a.conll", "Ann O\n", {"weight": "w"}, "is a key of JSON lines"),
    "iob1": ("a.conll", "Ann I-PER\nran O\n", {}, "line 1 has 'I-PER' where an entity begins: the file is in IOB1"),
    "order": ("a.conll", "a B-A\nb O\nc I-A\n\nd B-A\n", {}, "line 3 has 'I-A' after O.*, which IOB2 does not allow"),
    "bioes": ("a.conll", "a S-A\nb B-A\n", {}, "line 2 has 'B-A' after S-A as the last tag of its sentence"),
    "mixed": ("a.conll", "a B-A\nb NOUN\n", {}, "line 2 has the tag 'NOUN' beside tags such as B-X"),
    "bilou": ("a.conll", "a B-A\nb L-A\n", {}, "'L-A', as in BILOU; write L- as E- and U- as S-"),
    "other": (
        "a.conll",
        "a B-A\nb E-A\n",
        {"scheme": "iob2"},
        "which knows B, I and O; correct it, or set data.scheme",
    ),
    "one_tag": ("a.conll", "a O\nb O\n", {}, "has the tag 'O' alone; give two or more"),
    "nothing": ("a.txt", "", {"train": None}, "data.train names no file"),
    "absent": ("a.conll", "", {"train": "b.conll"}, "is not there"),
    "few": ("a.conll", "a B-A\nb O\n\n", {}, "has 1 distinct sentences, too few to cut a meta split"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_read_is_named(tmp_path: Path, case: str) -> None:
    """Prevents: words paired with other words' tags, and a training on tags that say something else."""
    name, text, options, message = BAD[case]
    with pytest.raises(UserError, match=message):
        load_tokens(**{"train": write(tmp_path, text, name), **options})


def test_a_tag_that_training_lacks(tmp_path: Path) -> None:
    """Prevents: a tag of the test file that no model could ever say."""
    train, test = write(tmp_path, many()), write(tmp_path, "Ann B-PER\nX B-ORG\n", "test.conll")
    with pytest.raises(
        UserError, match=r"test.conll', line 2 has the tag 'B-ORG', which no sentence of data.train has"
    ):
        load_tokens(train, test=test)


def test_iob1_is_read_as_iob2_where_that_is_asked_for(tmp_path: Path) -> None:
    """Prevents: tags converted in silence, and not converted where it was asked for."""
    text = many().replace("B-", "I-")
    data = load_tokens(write(tmp_path, text), scheme="iob1")
    assert data.tags == ("O", "B-LOC", "B-PER") and data.scheme == "iob2"


def test_cuts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Prevents: equal sentences on both sides, and another cut with the same seed."""
    caplog.set_level(logging.INFO)
    path = write(
        tmp_path,
        many() + "\n" + many().lower().replace("b-per", "B-PER").replace("b-loc", "B-LOC").replace(" o\n", " O\n"),
    )
    one, same, other = (load_tokens(path, split_seed=seed) for seed in (0, 0, 1))
    assert {name: len(split) for name, split in one.splits.items()} == {
        "train": 56,
        "meta": 8,
        "validation": 8,
        "test": 8,
    }
    assert [split.idx for split in one.splits.values()] == [split.idx for split in same.splits.values()]
    assert one.splits["test"].idx != other.splits["test"].idx
    keys = [{key_of(sentence) for sentence in split.tokens} for split in one.splits.values()]
    assert sum(map(len, keys)) == len(set().union(*keys)) == 40
    assert "train 56 sentences (224 words), meta 8 sentences (32 words)" in caplog.text
    assert "3 tags, scheme iob2: O 112, B-LOC 56, B-PER 56" in caplog.text
    assert "40 sentences repeat the words of another one" in caplog.text


@pytest.mark.parametrize("weight", [-1, None, "a", True, float("inf")])
def test_weights_that_cannot_be(tmp_path: Path, weight: Any) -> None:
    """Prevents: a sentence that is unlearnt, or a text taken for a number."""
    rows = [{"tokens": [f"w{i}", "Ann"], "tags": ["O", "B-PER"], "w": weight} for i in range(40)]
    path = write(tmp_path, "\n".join(map(json.dumps, rows)), "a.jsonl")
    message = "has no column 'w'|line 1 has .* as 'w'; give each sentence a weight of 0 or more"
    with pytest.raises(UserError, match=message):
        load_tokens(path, weight="w")
