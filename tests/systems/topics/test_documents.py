"""Files of raw documents, the tweets, and their preprocessing."""

import json
import re
from collections import Counter

import numpy as np
import pytest
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer

from rwkd_lightning.systems.topics.corpora import load_corpus
from rwkd_lightning.systems.topics.documents import load_documents
from rwkd_lightning.systems.topics.preprocessing import LEFTOVERS, WORD, preprocess
from rwkd_lightning.systems.topics.tweets import load_tweets_corpus
from rwkd_lightning.utils.errors import UserError

TEXTS = [
    f'The Ships of Üsküdar, ship-yard no. {i}: "don\'t" pay{" the bank" * (i % 3)}\x85 http://t.co/ab'
    for i in range(20)
]
SMALL = {"min_documents": 1, "max_share": 1.0}


def write(file, rows=None):
    """The 20 texts with labels, in the file's own format; returns its path."""
    rows = [{"text": text, "label": "ab"[i % 2]} for i, text in enumerate(TEXTS)] if rows is None else rows
    if file.suffix.lower() == ".txt":
        file.write_text("\n".join(row["text"] for row in rows), encoding="utf-8", newline="")
    elif file.suffix in (".csv", ".tsv"):
        mark = "," if file.suffix == ".csv" else "\t"
        lines = [
            mark.join(f'"{str(row[name]).replace(chr(34), chr(34) * 2)}"' for name in ("label", "text")) for row in rows
        ]
        file.write_text("\ufeff" + "\r\n".join(["label" + mark + "text", *lines]), encoding="utf-8", newline="")
    else:
        file.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8", newline="")
    return file


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl", "a.json", "A.TXT"])
def test_all_formats_give_the_same_corpus(tmp_path, name):
    """Prevents: a document cut or joined by what is in it (quotes, commas, other line breaks), or under another's
    label.
    """
    options = {} if name.lower().endswith("txt") else {"label_column": "label"}
    made = load_documents(write(tmp_path / name), **SMALL, **options)
    assert made.texts == TEXTS
    assert made.idx.tolist() == list(range(20))
    assert made.vocabulary == ("bank", "pay", "ship", "ships", "yard", "üsküdar")
    assert made.words[1] == ["ships", "üsküdar", "ship", "yard", "pay", "bank"]
    if options:
        assert made.label_names == ("a", "b")
        assert made.labels.tolist() == [0, 1] * 10
    else:
        assert made.labels is None


def test_the_number_of_a_document_is_its_place_in_the_file(tmp_path):
    """Prevents: weights told under the number of another document, where one has no words."""
    file = tmp_path / "a.txt"
    file.write_text("\n".join([*TEXTS[:4], "", "42", *TEXTS[4:]]))
    assert load_documents(file, **SMALL).idx.tolist() == [0, 1, 2, 3, *range(6, 22)]
    rows = [{"text": text} for text in (*TEXTS[:4], "42", *TEXTS[4:])]
    assert load_documents(write(tmp_path / "a.jsonl", rows), **SMALL).idx.tolist() == [0, 1, 2, 3, *range(5, 21)]


def test_a_document_may_be_a_book(tmp_path):
    """Prevents: a refusal of fields of more than 131,072 characters, the default of Python's csv."""
    rows = [{"text": text * (2000 if i == 3 else 1), "label": "a"} for i, text in enumerate(TEXTS)]
    made = load_documents(write(tmp_path / "a.csv", rows), **SMALL)
    assert len(made.texts[3]) > 131_072


def test_preprocessing_against_counting_by_hand():
    """Prevents: a share read as a number of documents, a rare word kept, words out of order, counts of other words."""
    rng = np.random.default_rng(0)
    words = [f"w{chr(97 + i)}{chr(97 + j)}" for i in range(6) for j in range(6)]
    texts = [" ".join(rng.choice(words[: 6 * (1 + i % 6)], size=8)) + " Zeta THE zeta of" for i in range(60)]
    tokens = [[w for w in re.findall(r"[a-z]+", text.lower()) if w not in ("the", "of")] for text in texts]
    documents = Counter(word for row in tokens for word in set(row))
    frequency = Counter(word for row in tokens for word in row)
    allowed = [word for word in documents if 4 <= documents[word] <= 0.9 * 60]
    ranked = sorted(allowed, key=lambda word: -frequency[word])
    room = next(n for n in range(20, 5, -1) if frequency[ranked[n - 1]] > frequency[ranked[n]])  # no tie at the edge
    expected = sorted(ranked[:room])
    found, vocabulary = preprocess(texts, min_documents=4, max_share=0.9, max_words=room)
    assert list(vocabulary) == expected
    assert "zeta" not in vocabulary
    assert found == [[word for word in row if word in expected] for row in tokens]
    assert "zeta" in preprocess(texts, min_documents=4, max_share=1, max_words=2000)[1]


def test_counts_are_those_of_scikit_learn(tmp_path):
    """Prevents: words in order (coherence) and counts (training) that tell of different documents."""
    made = load_documents(write(tmp_path / "a.txt"), min_documents=2, max_share=1.0)
    reference = CountVectorizer(
        stop_words=sorted(ENGLISH_STOP_WORDS | LEFTOVERS), token_pattern=WORD, min_df=2, max_df=1.0
    )
    expected = reference.fit_transform(TEXTS)[made.idx]
    assert tuple(reference.get_feature_names_out()) == made.vocabulary
    assert (made.counts != expected).nnz == 0


@pytest.mark.parametrize(
    "options, match",
    [
        ({"min_documents": 0}, "task.load.min_documents is 0; give a whole number, 1 or more"),
        ({"min_documents": 0.1}, "min_documents is 0.1"),
        ({"max_words": 1}, "task.load.max_words is 1; give a whole number, 2 or more"),
        ({"max_share": 0}, "task.load.max_share is 0; give a number above 0 and up to 1"),
        ({"max_share": 2}, "max_share is 2"),
        ({"max_share": True}, "max_share is True"),
        ({"min_documents": 21}, "at least 21 and at most 50% of the 20 documents; give more text, lower"),
        ({"min_documents": 15, "max_share": 0.2}, "at least 15 and at most 20% of the 20 documents"),
    ],
)
def test_bad_options_are_refused(tmp_path, options, match):
    """Prevents: an option that does something else than it says, and sklearn's traceback."""
    with pytest.raises(UserError, match=match):
        load_documents(write(tmp_path / "a.txt"), **options)


GOOD = [{"text": text} for text in TEXTS]


@pytest.mark.parametrize(
    "name, content, options, match",
    [
        ("a.txt", b"one\ntwo \xff\n", {}, "is not UTF-8 in line 2; convert it .*iconv"),
        ("a.txt", "one\ntwo".encode("utf-16"), {}, "is UTF-16; convert it: iconv"),
        ("a.txt", b"one\ntw\0o", {}, "has a NUL in line 2"),
        ("a.txt", b"", {}, "is empty"),
        ("a.txt", b" \n\n", {}, "is empty"),
        ("a.txt", b"42\n" * 20, {}, "no word of 3 letters or more"),
        ("a.txt", b"ship sea\n" * 9, {"max_share": 1.0}, "has 9 documents"),
        ("a.txt", b"ship\n" * 9, {"label_column": "label"}, "has no columns"),
        ("a.txt", b"ship\n" * 9, {"text_column": "body"}, "has no columns"),
        ("a.docx", b"PK", {}, "ends in none of .txt, .csv, .tsv, .jsonl, .json"),
        ("a", b"ship", {}, "ends in none of"),
        (
            "a.csv",
            b"id,body\n1,ship\n",
            {},
            "no column 'text'; its columns are id, body: name one with task.load.text_column",
        ),
        (
            "a.csv",
            b"id,text\n1,ship\n",
            {"label_column": "y"},
            "no column 'y'; its columns are id, text: name one with task.load.label_column",
        ),
        ("a.csv", b"text,text\n1,ship\n", {}, "column 'text' twice"),
        ("a.csv", b'id,text\n1,"two\nlines"\n2,sea, ship\n', {}, "has 3 fields in line 4, its header 2"),
        ("a.csv", b'id,text\n1,"ship" sea\n', {}, "is not a readable table .* in line 2"),
        ("a.csv", b'id,text\n1,"ship\n', {}, "is not a readable table"),
        ("a.csv", b"y,text\na,ship\n,sea\n", {"label_column": "y"}, "has no 'y' in line 3"),
        ("a.csv", b"id,text\n", {}, "of the 0 documents"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "b"\n', {}, "has no JSON in line 2 .*; write one object a line"),
        ("a.json", b'[\n{"text": "a"}]', {}, "has no JSON in line 1 .*; write one object a line"),
        ("a.json", b'[{"text": "a"}]', {}, "has a list in line 1; write one object a line"),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"body": "b", "y": 1}\n',
            {},
            "has no 'text' in line 2; there are body, y: name one",
        ),
        ("a.jsonl", b'{"text": "a"}\n', {"label_column": "y"}, "has no 'y' in line 1; there are text"),
        ("a.jsonl", b'{"text": 1}\n', {}, "has a int as 'text' in line 1; give text"),
        ("a.jsonl", b'{"text": "a", "y": null}\n', {"label_column": "y"}, "has no 'y' in line 1"),
        (
            "a.jsonl",
            b'{"text": "a", "y": [1]}\n',
            {"label_column": "y"},
            r"has \[1\] as 'y' in line 1; give text or a whole number",
        ),
        (
            "a.jsonl",
            b'{"text": "a", "y": 7}\n{"text": "b", "y": 1.0}\n',
            {"label_column": "y"},
            "has 1.0 as 'y' in line 2",
        ),
        ("a.jsonl", b'{"text": "a", "y": true}\n', {"label_column": "y"}, "has true as 'y' in line 1"),
        ("a.jsonl", b'{"text": "a", "y": NaN}\n', {"label_column": "y"}, "has NaN as 'y' in line 1"),
        ("a.jsonl", b'{"text": "a", "y": "\\ud800"}\n', {"label_column": "y"}, "half a surrogate pair in line 1"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\\ud83d"}\n', {}, "has half a surrogate pair in line 2"),
        ("a.jsonl", b"[" * 100_000, {}, "has no JSON in line 1"),
    ],
)
def test_broken_files_are_refused(tmp_path, name, content, options, match):
    """Prevents: a traceback, or documents read as something else than they are."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=match) as caught:
        load_documents(tmp_path / name, **options)
    assert "\n" not in str(caught.value)


@pytest.fixture
def tweets(tmp_path):
    names = ("negative", "neutral", "positive")
    texts = ["delayed flight", "new phone", "great game"]
    lines = [f"{names[i % 3]},{texts[i % 3]} caf\xe9 w{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(90)]
    (tmp_path / "tweets.csv").write_bytes(
        "\n".join(["sentiment,text", lines[0], lines[0], *lines[1:]]).encode("latin-1")
    )
    return str(tmp_path / "tweets.csv")


def test_tweets_keep_their_label_and_row(tweets):
    """Prevents: a subset that shifts labels or row numbers against the texts; another subset in each process."""
    made = load_tweets_corpus(tweets, documents=60, seed=1, min_documents=2, max_share=0.6)
    assert len(made) == 60
    assert made.label_names == ("negative", "neutral", "positive")
    first = ("delayed", "new", "great")
    assert [text.split()[0] for text in made.texts] == [first[label] for label in made.labels]
    assert [text.split()[-1] for text in made.texts] == [  # row 1 repeats row 0
        f"w{chr(97 + (i - 1) // 26)}{chr(97 + (i - 1) % 26)}" if i else "waa" for i in made.idx.tolist()
    ]
    assert made.vocabulary == ("delayed", "flight", "game", "great", "new", "phone")
    again, other = (
        load_tweets_corpus(tweets, documents=60, seed=seed, min_documents=2, max_share=0.6) for seed in (1, 2)
    )
    assert again.fingerprint() == made.fingerprint()
    assert other.idx.tolist() != made.idx.tolist()
    assert len(load_tweets_corpus(tweets, documents=None, min_documents=2)) == 90


@pytest.mark.parametrize("documents", [0, 91, True, 1.5])
def test_more_tweets_than_there_are_are_refused(tweets, documents):
    """Prevents: fewer documents than asked for."""
    with pytest.raises(UserError, match="task.load.documents is .*up to the 90 tweets"):
        load_tweets_corpus(tweets, documents=documents)


def test_load_tells_the_kinds_apart(tmp_path):
    """Prevents: a corpus of another kind than the path says."""
    assert load_corpus(None, documents=500, seed=3).name == "tweets"
    assert load_corpus(str(write(tmp_path / "some.csv")), label_column="label", **SMALL).label_names == ("a", "b")
    (tmp_path / "octis").mkdir()
    (tmp_path / "octis" / "corpus.tsv").write_text("sea ship\n" * 12)
    (tmp_path / "octis" / "vocabulary.txt").write_text("sea\nship\n")
    assert load_corpus(str(tmp_path / "octis")).name == "octis"


@pytest.mark.parametrize(
    "path, options, match",
    [
        (None, {"text_column": "a"}, "task.load.text_column='a' does not apply to the tweets; leave it out"),
        ("octis", {"max_words": 9}, "task.load.max_words=9 does not apply to a corpus in the format of OCTIS"),
        ("a.txt", {"documents": 9}, "task.load.documents=9 does not apply to a file of documents"),
        (".", {}, "is a folder without corpus.tsv; give a folder with"),
        (
            "none",
            {},
            "is not there; give a folder with corpus.tsv and vocabulary.txt .*, a file that ends in one of .*, or null",
        ),
        ("a\0b", {}, "holds a NUL"),
    ],
)
def test_what_is_no_corpus_is_refused(tmp_path, path, options, match):
    """Prevents: an option that is not used, and a default corpus in place of the one that was meant."""
    (tmp_path / "octis").mkdir()
    (tmp_path / "octis" / "corpus.tsv").touch()
    write(tmp_path / "a.txt")
    with pytest.raises(UserError, match=match):
        load_corpus(None if path is None else str(tmp_path / path), **options)
