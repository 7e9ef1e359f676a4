"""Entities and their scores against seqeval, which other work reports."""

from __future__ import annotations

import random

import pytest

from rwkd_lightning.systems.tokens.schemes import iob2_of, scheme_of, violation
from rwkd_lightning.systems.tokens.spans import entities, entity_scores, plain_scores

TAGS = ["O", *(f"{prefix}-{kind}" for prefix in "BIES" for kind in ("PER", "ORG", "MISC-X"))]


def sentences(seed: int, tags: list[str]) -> list[list[str]]:
    draw = random.Random(seed)
    return [[draw.choice(tags) for _ in range(draw.randint(1, 12))] for _ in range(30)]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("prefixes", ["BI", "BIES", "I", "ES"])
def test_scores_are_those_of_seqeval(seed: int, prefixes: str) -> None:
    """Prevents: scores that cannot be compared with published ones, on valid sequences or on what a student says."""
    seqeval = pytest.importorskip("seqeval.metrics")
    labelling = pytest.importorskip("seqeval.metrics.sequence_labeling")
    tags = [tag for tag in TAGS if tag[0] in f"O{prefixes}"]
    truth, draw = sentences(seed, tags), random.Random(seed)
    said = [[tag if draw.random() < 0.7 else draw.choice(tags) for tag in sentence] for sentence in truth]
    for sentence in (*truth, *said):
        assert entities(sentence) == labelling.get_entities(sentence)
    found = entity_scores(truth, said)
    assert found["f1"] == pytest.approx(seqeval.f1_score(truth, said), abs=1e-12)
    assert found["precision"] == pytest.approx(seqeval.precision_score(truth, said), abs=1e-12)
    assert found["recall"] == pytest.approx(seqeval.recall_score(truth, said), abs=1e-12)
    assert found["accuracy"] == pytest.approx(seqeval.accuracy_score(truth, said), abs=1e-12)


def test_entities_by_hand() -> None:
    """Prevents: the same where seqeval is not installed."""
    assert entities(["B-A", "I-A", "O", "I-A", "I-B", "B-B"]) == [("A", 0, 1), ("A", 3, 3), ("B", 4, 4), ("B", 5, 5)]
    assert entities(["S-A", "E-A", "B-A", "E-A", "I-A"]) == [("A", 0, 0), ("A", 1, 1), ("A", 2, 3), ("A", 4, 4)]
    assert entity_scores([["O"]], [["O"]]) == {"f1": 0.0, "precision": 0.0, "recall": 0.0, "accuracy": 1.0}
    found = entity_scores([["B-A", "I-A", "O", "B-B"]], [["B-A", "I-A", "B-B", "O"]])
    assert found == {"f1": 0.5, "precision": 0.5, "recall": 0.5, "accuracy": 0.5}


def test_scores_of_plain_tags_are_those_of_scikit_learn() -> None:
    """Prevents: a macro F1 over tags that nobody has."""
    from sklearn.metrics import f1_score

    truth, said = sentences(0, ["NOUN", "VERB", "ADJ", "X"]), sentences(1, ["NOUN", "VERB", "ADJ", "Y"])
    said = [(other * 12)[: len(one)] for one, other in zip(truth, said, strict=True)]
    flat = [[tag for sentence in part for tag in sentence] for part in (truth, said)]
    assert plain_scores(truth, said)["macro_f1"] == pytest.approx(f1_score(*flat, average="macro"), abs=1e-12)


@pytest.mark.parametrize(
    ("tags", "scheme", "place"),
    [
        (["B-A", "I-A", "O"], "iob2", None),
        (["O", "I-A"], "iob2", 1),
        (["B-A", "I-B"], "iob2", 1),
        (["I-A", "B-A", "I-A"], "iob1", None),
        (["O", "B-A"], "iob1", 1),
        (["B-A", "I-A", "E-A", "S-B"], "bioes", None),
        (["B-A", "O"], "bioes", 1),
        (["O", "B-A"], "bioes", 1),
        (["O", "I-A"], "loose", None),
    ],
)
def test_violations(tags: list[str], scheme: str, place: int | None) -> None:
    """Prevents: a sequence of another scheme taken for this one."""
    assert violation(tags, scheme) == place


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        ([["B-A", "I-A", "O"]], "iob2"),
        ([["I-A", "I-A", "O"], ["I-A", "B-A"]], "iob1"),
        ([["B-A", "E-A", "S-A"]], "bioes"),
        ([["NOUN", "VERB"]], "plain"),
        ([["O", "I-A"], ["O", "B-A"]], "iob2"),
    ],
)
def test_the_scheme_is_told_by_the_tags(tags: list[list[str]], scheme: str) -> None:
    """Prevents: IOB1 read as IOB2, where every entity without a B- would be one by seqeval's leniency alone."""
    assert scheme_of(tags) == scheme


def test_iob1_as_iob2_has_the_same_entities() -> None:
    """Prevents: two adjacent entities that become one, or one that becomes two."""
    tags = ["I-A", "I-A", "B-A", "I-A", "I-B", "O", "I-B"]
    assert iob2_of(tags) == ["B-A", "I-A", "B-A", "I-A", "B-B", "O", "B-B"]
    assert entities(iob2_of(tags)) == entities(tags) and violation(iob2_of(tags), "iob2") is None
