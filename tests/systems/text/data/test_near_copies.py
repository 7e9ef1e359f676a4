"""Near-copies against the exact Jaccard similarity of all pairs, by scikit-learn and scipy."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components
from sklearn.feature_extraction.text import CountVectorizer

from rwkd_lightning.systems.text.data import near_copies
from rwkd_lightning.systems.text.data.near_copies import NearCopies, jaccard, rows_per_band, shingles

ALPHABETS = {
    "latin": "abcdefghijklmnopqrstuvwxyz    ",
    "cyrillic": "абвгдежзийклмнопрстуфхцчшщъыьэюя    ",
    "thai": "กขคงจฉชซญดตถทธนบปผฝพฟภมยรลวศษสหอฮ",
    "chinese": "".join(map(chr, range(0x4E00, 0x5200))),
}


def changed(text: str, letters: str, draw: random.Random) -> str:
    """The text with one to four edits: a letter put in, taken out or replaced, or words added at the end."""
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(max(1, len(text)))
        text = draw.choice(
            [
                text[:place] + text[place + 1 :],
                text[:place] + draw.choice(letters) + text[place:],
                text[:place] + draw.choice(letters) + text[place + 1 :],
                text + "".join(draw.choices(letters, k=draw.randint(1, 12))),
            ]
        )
    return text


def generated(letters: str, count: int) -> list[str]:
    """Distinct texts of 1 to 120 letters; two of three are changed copies of earlier ones, chains among them."""
    draw, texts = random.Random(0), ["".join(random.Random(1).choices(letters, k=60))]
    while len(texts) < count:
        new = "".join(draw.choices(letters, k=draw.randint(1, 120)))
        texts.append(new if draw.random() < 0.34 else changed(draw.choice(texts), letters, draw))
    return list(dict.fromkeys(texts))


def similarities(texts: list[str], doubled: bool) -> np.ndarray:
    """The Jaccard similarity of all pairs `(N, N)`, from counts of runs of four characters."""
    padded = ["\1\1\1" + ("".join(f"{c}\1" for c in text) if doubled else text) + "\1\1\1" for text in texts]
    runs = CountVectorizer(
        analyzer=lambda text: ["".join(run) for run in zip(*(text[k:] for k in range(4)), strict=False)], binary=True
    )
    counts = runs.fit_transform(padded)
    shared, sizes = (counts @ counts.T).toarray(), np.asarray(counts.sum(1)).ravel()
    return shared / (sizes[:, None] + sizes[None] - shared)


def partition(labels: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in np.unique(labels)}


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 1.0])
@pytest.mark.parametrize("script", ALPHABETS)
def test_groups_are_those_of_all_pairs(script: str, threshold: float) -> None:
    """Prevents: near-copies on two sides (recall), other texts kept together (precision), scripts without blanks."""
    texts = generated(ALPHABETS[script], 400)
    exact = similarities(texts, doubled=script == "chinese")
    groups = NearCopies(texts, threshold).groups()
    _, expected = connected_components(exact >= threshold, directed=False)
    assert partition(groups) == partition(expected)
    assert (groups == [min(np.flatnonzero(groups == group)) for group in groups]).all()
    if threshold < 1:
        assert 100 < len(partition(groups)) < len(texts) - 20


def test_the_similarity_is_that_of_all_pairs() -> None:
    """Prevents: another similarity than the documented one."""
    texts = generated(ALPHABETS["latin"], 60)
    own = [[jaccard(shingles(one), shingles(other)) for other in texts] for one in texts]
    np.testing.assert_allclose(own, similarities(texts, doubled=False), rtol=1e-12)


def test_near_copies_of_other_texts() -> None:
    """Prevents: a test text whose copy in the training goes unnoticed, or a text named that is none."""
    texts = generated(ALPHABETS["latin"], 600)
    mine, others = texts[::2], texts[1::2]
    exact = similarities([*mine, *others], doubled=False)[len(mine) :, : len(mine)]
    found = NearCopies(mine, 0.8).of([*others, mine[7]])
    assert found[-1] == 7
    assert ((found[:-1] >= 0) == (exact.max(1) >= 0.8)).all() and (found[:-1] >= 0).sum() > 50
    assert all(exact[row, number] >= 0.8 for row, number in enumerate(found[:-1].tolist()) if number >= 0)


PAIRS = {
    "a letter of 33": ("a man saw two cats near the lakes", "a man saw two bats near the lakes", True),
    "a letter of 32": ("a man saw two cats near the lake", "a man saw two bats near the lake", False),
    "the last letter counts as any": ("a man saw two cats near the lake", "a man saw two cats near the lakx", False),
    "a character of 17": ("天地玄黃宇宙洪荒日月盈昃辰宿列張寒", "天地玄黃宇宙洪荒火月盈昃辰宿列張寒", True),
    "a character of 16": ("天地玄黃宇宙洪荒日月盈昃辰宿列張", "天地玄黃宇宙洪荒火月盈昃辰宿列張", False),
    "single letters": ("a", "b", False),
    "short numbers": ("room 12", "room 13", False),
    "one repeated": ("!!!!!!", "!!!!!!!!!", True),
    "emoji": ("😀", "😡", False),
    "half a surrogate pair": ("\ud800", "\ud801", False),
    "nothing at all": ("", "a", False),
}


@pytest.mark.parametrize("name", PAIRS)
def test_what_is_near(name: str) -> None:
    """Prevents: short texts that are all one, and the bounds that docs/own_data.md states."""
    one, other, near = PAIRS[name]
    assert (len(set(NearCopies([one, other], 0.8).groups().tolist())) == 1) is near
    assert NearCopies([one], 0.8).of([other]).tolist() == [0 if near else -1]


def test_parts_and_order_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents: groups that depend on where a part of the texts ends, or on the order of the rows."""
    texts = generated(ALPHABETS["latin"], 300)
    expected = NearCopies(texts, 0.8).groups()
    order = np.random.default_rng(0).permutation(len(texts))
    shuffled = NearCopies([texts[i] for i in order], 0.8).groups()
    assert {frozenset(order[list(part)].tolist()) for part in partition(shuffled)} == partition(expected)
    monkeypatch.setattr(near_copies, "FLAT", 64)
    assert (NearCopies(texts, 0.8).groups() == expected).all()


def test_many_texts_in_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents: a template whose texts fall apart where more of them share a bucket than are compared."""
    monkeypatch.setattr(near_copies, "COMPARED", 8)
    templates = (
        "the sensor on the roof of the house said {} today",
        "an invoice of number {} was paid by the customer",
    )
    texts = [templates[i % 2].format(i) for i in range(600)]
    assert len(set(NearCopies(texts, 0.7).groups().tolist())) == 2


def test_no_texts() -> None:
    """Prevents: a traceback where a table has one text, or none."""
    assert NearCopies([], 0.8).groups().tolist() == [] and NearCopies(["a"], 0.8).groups().tolist() == [0]
    assert NearCopies(["a"], 0.8).of([]).tolist() == [] and NearCopies([], 0.8).of(["a"]).tolist() == [-1]


@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.75, 0.8, 0.95, 1.0])
def test_bands(threshold: float) -> None:
    """Prevents: bands so strict that pairs at the threshold are missed, by Leskovec et al., section 3.4.2."""
    rows = rows_per_band(threshold)
    assert 1 - (1 - threshold**rows) ** (near_copies.HASHES // rows) >= 0.999


@pytest.mark.parametrize("threshold", [0.49, 1.01, float("nan")])
def test_a_threshold_that_cannot_be(threshold: float) -> None:
    """Prevents: hours of comparing most pairs of a language."""
    with pytest.raises(ValueError, match="`threshold` is .*; give a number from 0.5 to 1"):
        NearCopies(["a"], threshold)
