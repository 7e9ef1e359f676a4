"""Corpora, their counts and parts, and the format of OCTIS."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from rwkd_lightning.systems.topics.corpus import make_corpus, split
from rwkd_lightning.systems.topics.needs import needed
from rwkd_lightning.systems.topics.octis import load_octis
from rwkd_lightning.utils.errors import UserError

VOCABULARY = ("sea", "ship", "bank", "loan")


def documents(number=24):
    """Words of that many documents, all different ("sea" so often as the document's number), and one without any in
    between.
    """
    words = [["sea"] * i + ["ship", "other", "loan", "ship"] for i in range(number)]
    return [*words[:3], ["other"], *words[3:]]


def corpus(number=24, **options):
    words = documents(number)
    labels = ["odd" if i % 2 else "even" for i in range(len(words))]
    return make_corpus("toy", [f"text {i}" for i in range(len(words))], words, VOCABULARY, labels, **options)


def test_counts_are_those_of_counting_by_hand():
    """Prevents: a topic model trained on words under other words' columns."""
    made = corpus()
    assert made.counts.dtype == np.float32
    assert made.counts.shape == (24, 4)
    by_hand = [[document.count(word) for word in VOCABULARY] for document in documents() if document != ["other"]]
    assert made.counts.toarray().tolist() == by_hand
    assert made.words[1] == ["sea", "ship", "loan", "ship"]


def test_a_dropped_document_takes_its_text_label_and_number_along(caplog):
    """Prevents: each document after a dropped one with its neighbour's text, label or number; documents that vanish
    unseen.
    """
    with caplog.at_level(logging.INFO):
        made = corpus()
    numbers = [i for i in range(25) if i != 3]
    assert made.idx.tolist() == numbers
    assert made.texts == [f"text {i}" for i in numbers]
    assert made.label_names == ("even", "odd")
    assert made.labels.tolist() == [i % 2 for i in numbers]
    assert "1 of 25 documents have no word of the vocabulary" in caplog.text


def test_without_a_vocabulary_all_words_are_taken_sorted():
    """Prevents: columns in an order that differs between processes, as that of a set does."""
    words = [["pear", "apple"], ["fig"], []] * 10
    assert make_corpus("toy", ["t"] * 30, words).vocabulary == ("apple", "fig", "pear")


@pytest.mark.parametrize(
    "vocabulary, number, match",
    [
        (("sea", "ship", "sea"), 24, "the word 'sea' twice; name each once"),
        (("sea",), 24, "its vocabulary has 1 words"),
        (VOCABULARY, 9, r"has 9 documents .* \(of 10\); give 10 or more"),
    ],
)
def test_bad_corpora_are_refused(vocabulary, number, match):
    """Prevents: a word with two columns; topics of a corpus that is none."""
    words = documents(number)
    with pytest.raises(UserError, match=match):
        make_corpus("toy", ["t"] * len(words), words, vocabulary)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: replace(c, texts=["another", *c.texts[1:]]),
        lambda c: replace(c, words=[[*c.words[0], "sea"], *c.words[1:]]),
        lambda c: replace(c, words=[c.words[0], c.words[1][::-1], *c.words[2:]]),
        lambda c: replace(c, vocabulary=("ship", "sea", "bank", "loan")),
        lambda c: replace(c, labels=1 - c.labels),
        lambda c: replace(c, labels=None, label_names=None),
        lambda c: replace(c, label_names=("even", "uneven")),
        lambda c: replace(c, idx=c.idx + 1),
    ],
)
def test_the_fingerprint_tells_any_other_corpus(change):
    """Prevents: a kept teacher or finished run of another corpus taken for this one's."""
    assert corpus().fingerprint() == corpus().fingerprint()
    assert change(corpus()).fingerprint() != corpus().fingerprint()


@pytest.mark.parametrize("test_fraction", [0, 0.25])
def test_parts_are_disjoint_and_cover_the_corpus(test_fraction):
    """Prevents: a document that is trained on and held out; one in no part; another cut in each process."""
    made = corpus(100)
    parts = split(made, 0.1, test_fraction, seed=0)
    assert {part: len(rows) for part, rows in parts.items()} == {
        "train": 90 - 100 * test_fraction,
        "meta": 10,
        "test": 100 * test_fraction,
    }
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(100))
    for part, rows in parts.items():
        assert rows.tolist() == sorted(rows.tolist())
        assert rows.tolist() == split(made, 0.1, test_fraction, seed=0)[part].tolist()
    assert parts["meta"].tolist() != split(made, 0.1, test_fraction, seed=1)["meta"].tolist()


def test_the_same_words_lie_in_one_part():
    """Prevents: a held-out loss on documents that were trained on (15 % of a real corpus were copies)."""
    words = [["sea"] * (1 + i // 4) + ["ship"] for i in range(200)]
    made = make_corpus("copies", ["t"] * 200, words)
    parts = split(made, 0.2, 0.2, seed=3)
    seen = [{tuple(made.words[row]) for row in rows} for rows in parts.values()]
    assert sum(map(len, seen)) == 50
    assert all(abs(len(parts[part]) - 40) < 4 for part in ("meta", "test"))


@pytest.mark.parametrize(
    "fractions, match",
    [
        ((0, 0.1), "meta_fraction is 0; give a number above 0 and up to 0.5$"),
        ((0.6, 0.1), "meta_fraction is 0.6"),
        ((float("nan"), 0.1), "meta_fraction is nan"),
        (("0.1", 0.1), "meta_fraction is '0.1'"),
        ((True, 0.1), "meta_fraction is True"),
        ((0.1, -0.1), "test_fraction is -0.1; give a number above 0 and up to 0.5, or 0"),
        ((0.01, 0.1), "meta_fraction=0.01 of the 24 documents of 'toy' is none; give more"),
        ((0.1, 0.01), "test_fraction=0.01 of the 24 documents"),
        ((0.5, 0.5), "leave no document for the train part"),
    ],
)
def test_bad_fractions_are_refused(fractions, match):
    """Prevents: an empty part, whose mean loss is NaN."""
    with pytest.raises(UserError, match=match):
        split(corpus(), *fractions, seed=0)


@pytest.fixture
def octis(tmp_path):
    folder = tmp_path / "Toy"
    folder.mkdir()
    (folder / "vocabulary.txt").write_text("ship\nsea\nloan\n")
    (folder / "corpus.tsv").write_text(
        "".join(f"sea ship other sea{' loan' * i}\ttrain\t{'ab'[i % 2]}\n" for i in range(12))
    )
    return folder


def test_octis_keeps_the_order_of_its_vocabulary(octis):
    """Prevents: sorted columns beside a vocabulary that is not; words of no column counted as others."""
    made = load_octis(octis)
    assert (made.name, made.vocabulary) == ("Toy", ("ship", "sea", "loan"))
    assert made.counts.toarray().tolist() == [[1, 2, i] for i in range(12)]
    assert made.words[1] == ["sea", "ship", "sea", "loan"]
    assert made.texts[1] == "sea ship other sea loan"
    assert made.labels.tolist() == [0, 1] * 6


def test_octis_without_partition_and_label(octis):
    """Prevents: a partition taken for the label where there is only one of them."""
    rows = (octis / "corpus.tsv").read_text().splitlines()
    for fields in (1, 2):
        (octis / "corpus.tsv").write_text("\r\n".join("\t".join(row.split("\t")[:fields]) for row in rows))
        made = load_octis(octis)
        assert (len(made), made.labels, made.label_names) == (12, None, None)
        assert made.counts.sum() == 12 * 3 + 66


@pytest.mark.parametrize(
    "name, content, match",
    [
        ("corpus.tsv", "sea ship\ttrain\ta\nsea\ttrain\n", "2 fields in line 2, and 3 in line 1"),
        ("corpus.tsv", "sea\ttrain\ta\tb\n", "4 fields in line 1"),
        ("corpus.tsv", "sea\ttrain\ta\nsea\ttrain\t \n", "no label in line 2"),
        ("corpus.tsv", "\n", "corpus.tsv' is empty"),
        ("vocabulary.txt", "sea\n\nship\n", "'' in line 2; it takes one word a line"),
        ("vocabulary.txt", "sea\nbig ship\n", "'big ship' in line 2"),
        ("vocabulary.txt", "sea\nship\nsea\n", "the word 'sea' twice"),
        (
            "vocabulary.txt",
            None,
            "has no vocabulary.txt; a corpus in the format of OCTIS has corpus.tsv and vocabulary.txt",
        ),
        ("corpus.tsv", None, "has no corpus.tsv"),
    ],
)
def test_broken_octis_is_refused(octis, name, content, match):
    """Prevents: labels of other documents, empty words, and tracebacks."""
    (octis / name).unlink()
    if content is not None:
        (octis / name).write_text(content)
    with pytest.raises(UserError, match=match):
        load_octis(octis)


def test_a_missing_library_is_told():
    """Prevents: a traceback where the extra was not installed."""
    with pytest.raises(UserError, match=r'topic models need no_such_library.*pip install "rwkd_lightning\[topics\]"'):
        needed("no_such_library")
