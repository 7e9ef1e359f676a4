r"""Words of languages that are not English: settings, what they say when they are wrong, and English as it always
was.
"""

from __future__ import annotations

import logging
import random
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer

from rwkd_lightning.cli import overrides
from rwkd_lightning.cli import schema as values
from rwkd_lightning.run.build import create
from rwkd_lightning.systems.topics.corpora import load_corpus
from rwkd_lightning.systems.topics.corpus import Corpus
from rwkd_lightning.systems.topics.preprocessing import LEFTOVERS, preprocess
from rwkd_lightning.utils.errors import UserError
from tests.run.test_pipeline_run import ROOT
from tests.systems.topics.test_topic_config import config

CHINESE = ["我们", "喜欢", "学习", "天气", "北京", "学校", "火车", "朋友", "音乐", "电影"]
SENTENCES = [random.Random(i).sample(CHINESE, 4) for i in range(40)]
SPACED = [" ".join(words) + " 。" for words in SENTENCES]
UNSPACED = ["".join(words) + "。" for words in SENTENCES]
HINDI = [["नमस्ते", "दुनिया", "हिन्दी", "किताब", "पानी"][i % 3 : i % 3 + 3] for i in range(30)]


def pairs(text: str) -> list[str]:
    """Words of two letters each."""
    return [text[i : i + 2] for i in range(0, len(text) - 1, 2)]


def blanks_too(text: str) -> Iterator[str]:
    """A word, what is between two, a phrase with a line break."""
    yield from (f" {text.split()[0]}\n", " ", "\u2028", "New\n York", "the", "")


def wrong(kind: str) -> Callable[[str], Any]:
    """A tokenizer that gives something else than words, or fails."""
    return {
        "text": lambda text: text,
        "number": lambda text: 3,
        "ids": lambda text: [1, 2],
        "none": lambda text: None,
        "failing": lambda text: text[10**6],
    }[kind]


NO_FUNCTION = 3


def typed(folder: Path, texts: list[str], *arguments: str) -> Corpus:
    """The corpus of a file with these lines and what is typed in a shell."""
    (folder / "own.txt").write_text("\n".join(texts), encoding="utf-8")
    words = [f"data.path={folder / 'own.txt'}", *(word for argument in arguments for word in shlex.split(argument))]
    overrides.check(["task=topics", *words], ROOT / "conf")
    composed = config(*words)
    values.check(composed)
    made: Corpus = create(composed, "task.load", Corpus)
    return made


def bigrams(words: list[str]) -> set[str]:
    text = "".join(words)
    return {text[i : i + 2] for i in range(len(text) - 1)}


ALL = ["task.load.max_share=1.0 task.load.min_documents=1"]


@pytest.mark.parametrize(
    ("texts", "argument", "expected"),
    [
        (SPACED, "task.load.min_letters=1", lambda words: words),
        (SPACED, "task.load.min_letters=2", lambda words: words),
        (SPACED, r"'task.load.token_pattern=\w+'", lambda words: words),
        (UNSPACED, r"'task.load.token_pattern=\w'", lambda words: list("".join(words))),
        (UNSPACED, r"'task.load.token_pattern=\w\w'", lambda words: words),
        (UNSPACED, r"""'task.load.token_pattern="(?=(\w\w))"'""", bigrams),
        (UNSPACED, "task.load.tokenizer=tests.systems.topics.test_words.pairs", lambda words: words),
        (
            UNSPACED,
            "'task.load.tokenizer={_target_: tests.systems.topics.test_words.pairs, _partial_: true}'",
            lambda words: words,
        ),
        ([" ".join(words) for words in HINDI], r"'task.load.token_pattern=\S+'", lambda words: words),
    ],
)
def test_other_languages_are_cut_as_set(
    texts: list[str], argument: str, expected: Callable[[list[str]], Any], tmp_path: Path
) -> None:
    """Prevents: a language without words of three letters between blanks that has no corpus at all."""
    sentences = HINDI if "\u093f" in "".join(texts) else SENTENCES
    made = typed(tmp_path, texts, argument, *ALL)
    assert made.texts == texts
    assert set(made.vocabulary) == {word for words in sentences for word in expected(words)}
    assert [sorted(words) for words in made.words] == [sorted(expected(words)) for words in sentences]
    assert made.counts.sum() == sum(map(len, made.words))


def remedies(texts: list[str], folder: Path, *more: str) -> str:
    with pytest.raises(UserError) as caught:
        typed(folder, texts, *more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("texts", "remedy", "more"),
    [
        (SPACED, r"task\.load\.min_letters=1", ALL[0]),
        (UNSPACED, r"'task\.load\.token_pattern=[^']+'", ""),
        (UNSPACED, r"task\.load\.tokenizer=MODULE\.NAME", ""),
        (
            [f"we were {'there' if i % 2 else 'here'}" for i in range(20)],
            r"task\.load\.stop_words=none",
            "task.load.max_share=1.0",
        ),
        ([f"ship w{chr(97 + i // 4) * 2} number" for i in range(20)], r"lower task\.load\.min_documents", ""),
        (["ship sea"] * 20, r"raise task\.load\.max_share", ""),
    ],
)
def test_each_remedy_that_is_named_works_when_typed(texts: list[str], remedy: str, more: str, tmp_path: Path) -> None:
    """Prevents: a message that sends its reader three ways, none of which leads anywhere."""
    message = remedies(texts, tmp_path, more)
    found = re.search(remedy, message)
    assert found
    way = {
        "lower task.load.min_documents": "task.load.min_documents=2",
        "raise task.load.max_share": "task.load.max_share=1.0",
    }
    argument = way.get(found[0], found[0]).replace("MODULE.NAME", "tests.systems.topics.test_words.pairs")
    assert len(typed(tmp_path, texts, more, argument)) == len(texts)


def test_the_format_of_octis_is_the_other_way(tmp_path: Path) -> None:
    """Prevents: somebody who has cut the words already without a way to say so."""
    message = remedies(UNSPACED, tmp_path)
    files = re.search(r"the format of OCTIS \((\S+) and (\S+)\)", message)
    assert files
    folder = tmp_path / "cut"
    folder.mkdir()
    (folder / files[1]).write_text("\n".join(map(" ".join, SENTENCES)), encoding="utf-8")
    (folder / files[2]).write_text("\n".join(CHINESE), encoding="utf-8")
    made = load_corpus(str(folder))
    assert made.words == SENTENCES and made.vocabulary == tuple(CHINESE)


def test_without_the_settings_words_are_those_of_before(caplog: pytest.LogCaptureFixture) -> None:
    """Prevents: every kept teacher and every published number gone with an update that was to change nothing."""
    with caplog.at_level(logging.WARNING):
        made = load_corpus(documents=500, seed=3)
    assert made.fingerprint() == "5da9ac99c5007b0829497e45ab094c1b5152b919539d357156845906c92ca43c"
    assert not caplog.records
    draw = random.Random(1)
    words = [
        *CHINESE,
        *HINDI[0],
        "Straße",
        "don't",
        "naïve",
        "cafe\u0301",
        "İstanbul",
        "a_b_c",
        "x1y2",
        "snow-man",
        "the",
        "Of",
        "ΣΑΣ",
        "http://t.co/abc",
        "\u00a0nbsp\u00a0",
        "word\x85word",
        "fi\u00adsh",
        "123abc",
        "abc123",
        "Ελλάδα",
        "ship",
        "ships",
    ]
    texts = [" ".join(draw.choices(words, k=12)) + draw.choice(["", "\r", "\t!"]) for _ in range(200)]
    reference = CountVectorizer(
        lowercase=True,
        stop_words=sorted(ENGLISH_STOP_WORDS | LEFTOVERS),
        min_df=5,
        max_df=0.5,
        token_pattern=r"(?u)\b[^\W\d_]{3,}\b",
        max_features=12,
    )
    reference.fit(texts)
    vocabulary, analyze = tuple(reference.get_feature_names_out()), reference.build_analyzer()
    expected = [[word for word in analyze(text) if word in vocabulary] for text in texts], vocabulary
    assert len(vocabulary) == 12
    assert preprocess(texts, max_words=12) == expected
    assert preprocess(texts, max_words=12, min_letters=3, stop_words="english") == expected


def test_stop_words_and_length_hold_for_every_way_of_cutting(tmp_path: Path) -> None:
    """Prevents: a setting that is not used beside another one."""
    (tmp_path / "stop.txt").write_text("\ufeff天气\n\nSHIP\r\n 北京 \n", encoding="utf-8")
    stop, kept = str(tmp_path / "stop.txt"), tuple(sorted(set(CHINESE) - {"天气", "北京"}))
    for texts, way in (
        (SPACED, {"min_letters": 2}),
        (UNSPACED, {"token_pattern": r"\w\w"}),
        (UNSPACED, {"tokenizer": pairs}),
    ):
        assert preprocess(texts, 1, 1.0, stop_words=stop, **way)[1] == kept
    for least, expected in ((1, {"河流水", "河", *kept}), (2, {"河流水", *kept}), (3, {"河流水"})):
        texts = [f"{text} 河流水 河" for text in SPACED]
        for way in ({"tokenizer": str.split}, {"token_pattern": r"\S+"}):
            found = preprocess(texts, 1, 1.0, stop_words=stop, min_letters=least, **way)[1]
            assert {word for word in found if word != "。"} == expected
    english = ["the ships of don", "no ship", "http we"] * 10
    assert preprocess(english, max_share=1.0)[1] == ("ship", "ships")
    assert preprocess(english, max_share=1.0, stop_words="none")[1] == ("don", "http", "ship", "ships", "the")
    assert preprocess(english, max_share=1.0, stop_words=str(tmp_path / "stop.txt"))[1] == (
        "don",
        "http",
        "ships",
        "the",
    )


def test_a_tokenizers_words_fit_on_one_line() -> None:
    """Prevents: a vocabulary file with more lines than the model has words, or blanks and punctuation as topics' top
    words.
    """
    texts = ["Alpha ship"] * 12 + ["beta"] * 12
    words, vocabulary = preprocess(texts, tokenizer=blanks_too, max_share=1.0)
    assert vocabulary == ("New York", "alpha", "beta")
    assert words[0] == ["alpha", "New York"] and words[-1] == ["beta", "New York"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"token_pattern": ""}, "task.load.token_pattern is ''; give a regular expression, or null"),
        ({"token_pattern": 3}, "task.load.token_pattern is 3"),
        ({"token_pattern": "("}, r"task.load.token_pattern='\(' is no regular expression \(missing \)"),
        ({"token_pattern": r"\p{L}+"}, r"is no regular expression \(bad escape"),
        ({"token_pattern": r"(\w)(\w)"}, r"has 2 groups, and one at most can be the word; write \(\?:"),
        ({"token_pattern": r"\w*"}, r"finds words without a letter; write \+ in place of \*"),
        ({"token_pattern": r"\b"}, "finds words without a letter"),
        ({"token_pattern": r"\w", "tokenizer": pairs}, "both cut texts into words; give one"),
        (
            {"tokenizer": "no_such.cut"},
            "task.load.tokenizer='no_such.cut' cannot be imported .*No module named.*PYTHONPATH",
        ),
        ({"tokenizer": "tests.systems.topics.test_words.nothing"}, "cannot be imported .AttributeError"),
        ({"tokenizer": "not a name"}, "cannot be imported .ValueError"),
        ({"tokenizer": ""}, "cannot be imported"),
        ({"tokenizer": "tests.systems.topics.test_words.NO_FUNCTION"}, "is a int, and no function"),
        ({"tokenizer": {"name": "jieba"}}, "'dict' is a dict, and no function"),
        ({"tokenizer": wrong("text")}, "gives a str for the document 'ship.*it takes a text and gives a list of words"),
        ({"tokenizer": wrong("ids")}, "gives a list that holds other things than texts"),
        ({"tokenizer": wrong("number")}, "fails .TypeError: 'int' object is not iterable"),
        ({"tokenizer": wrong("none")}, "fails .TypeError: 'NoneType'"),
        ({"tokenizer": wrong("failing")}, "fails .IndexError: string index out of range. at the document 'ship"),
        ({"stop_words": "chinese"}, "task.load.stop_words='chinese' is no file; give english, none, or a file"),
        ({"stop_words": ""}, "task.load.stop_words='' is not a path"),
        ({"stop_words": 3}, "task.load.stop_words=3 is not a path"),
        ({"min_letters": 0}, "task.load.min_letters is 0; give a whole number, 1 or more"),
        ({"min_letters": 2.0}, "task.load.min_letters is 2.0"),
        ({"min_letters": True}, "task.load.min_letters is True"),
        ({"min_letters": 9}, "no word of 9 letters or more"),
        ({"token_pattern": "[0-9]+"}, "no word of 1 letter or more"),
    ],
)
def test_wrong_settings_are_told(options: dict[str, Any], match: str) -> None:
    """Prevents: a traceback, a vocabulary of single letters, and stop words that are in no file."""
    with pytest.raises(UserError, match=match) as caught:
        preprocess(["ship and sea"] * 20, **{"max_share": 1.0, **options})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"the\nof the\n", r"has 'of the' in line 2; it takes one word a line"),
        (b"", r"stop.txt' is empty; give a file with text"),
        ("für".encode("latin-1"), r"task.load.stop_words='.*stop.txt' is not UTF-8 in line 1"),
    ],
)
def test_broken_stop_words_are_told(content: bytes, match: str, tmp_path: Path) -> None:
    """Prevents: stop words that leave nothing out, unseen; a message about the corpus in place of them."""
    (tmp_path / "stop.txt").write_bytes(content)
    with pytest.raises(UserError, match=match):
        preprocess(["ship sea"] * 20, stop_words=str(tmp_path / "stop.txt"), max_share=1.0)


@pytest.mark.parametrize(
    ("argument", "match"),
    [
        ("task.load.min_letters=0", "task.load.min_letters is 0; give a whole number from 1 to 100, or null"),
        ("task.load.min_letters=two", "task.load.min_letters is 'two'"),
        ("task.load.stop_words=[a,b]", "task.load.stop_words is .a,b.; give a text, or null"),
        ("task.load.token_pattern=''", "task.load.token_pattern is ''; give a text, or null"),
        ("task.load.tokenizer=3", "task.load.tokenizer is 3; give a text, or a group of keys, or null"),
        ("task.load.delimiter=ab", "task.load.delimiter is 'ab'; give a single character, or null"),
        ("task.load.stopwords=none", "task.load.stopwords is not a key.*did you mean task.load.stop_words"),
    ],
)
def test_wrong_values_are_told_before_a_file_is_read(argument: str, match: str, tmp_path: Path) -> None:
    """Prevents: a mistake on the command line that is found after a long file was read, or not at all."""
    with pytest.raises(UserError, match=match):
        typed(tmp_path, [], argument)


def test_the_settings_do_not_apply_to_words_that_are_cut_already(octis: Path) -> None:
    """Prevents: a stop list of one's own that is not used."""
    for option in ("tokenizer", "stop_words", "token_pattern", "min_letters", "delimiter"):
        with pytest.raises(UserError, match=f"task.load.{option}=1 does not apply to a corpus in the format of OCTIS"):
            load_corpus(str(octis), **{option: 1})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("texts", "warned"),
    [
        ([" ".join(words) for words in HINDI], 30),
        (["re\u0301sume\u0301 ships"] * 20, 20),
        (SPACED, 0),
        (["it's a♥\ufe0fb snow-man"] * 20, 0),
    ],
)
def test_words_that_are_cut_at_vowel_signs_are_told(
    texts: list[str], warned: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Prevents: topics of pieces of words, seen only by somebody who reads the language."""

    def found(**options: Any) -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            preprocess(texts, max_share=1.0, min_documents=1, **options)
        return [record.getMessage() for record in caplog.records]

    told = found(min_letters=1)
    assert bool(told) == bool(warned) and all(
        f"{warned} of {len(texts)} documents have words with combining" in m for m in told
    )
    for message in told:
        pattern = re.search(r"'task\.load\.token_pattern=(\S+)'", message)
        assert pattern and not found(token_pattern=pattern[1])
