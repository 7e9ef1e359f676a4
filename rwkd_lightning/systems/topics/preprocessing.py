"""From raw texts to words: the usual preprocessing for topic models, with settings for other languages."""

from __future__ import annotations

import logging
import pkgutil
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from rwkd_lightning.systems.topics.needs import needed
from rwkd_lightning.systems.topics.text_file import lines, read_text
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.paths import place

log = logging.getLogger(__name__)
Cut = Callable[[str], list[str]]
LETTERS = r"(?u)\b[^\W\d_]{%d,}\b"
WORD = LETTERS % 3
LEFTOVERS = {
    "ain",
    "aren",
    "couldn",
    "didn",
    "doesn",
    "don",
    "hadn",
    "hasn",
    "haven",
    "isn",
    "mustn",
    "needn",
    "shouldn",
    "wasn",
    "weren",
    "wouldn",  # of contractions, which are cut at the apostrophe
    "amp",
    "com",
    "http",
    "https",
    "quot",
    "www",
}  # of addresses and HTML
OTHER_WAYS = (
    r"where words are short or have no blanks between them, give task.load.min_letters=1, another pattern "
    r"('task.load.token_pattern=\w' makes each letter a word), your own function as "
    r"task.load.tokenizer=MODULE.NAME, or task.load.stop_words=none; or cut the words yourself and give a folder in "
    r"the format of OCTIS (corpus.tsv and vocabulary.txt)"
)


def preprocess(
    texts: Sequence[str],
    min_documents: int = 5,
    max_share: float = 0.5,
    max_words: int = 2000,
    tokenizer: str | Callable[[str], Any] | None = None,
    stop_words: str = "english",
    token_pattern: str | None = None,
    min_letters: int | None = None,
) -> tuple[list[list[str]], tuple[str, ...]]:
    """The words of each text, in order, and the sorted vocabulary: lower case, 3 letters or more, no stop words.

    Args:
        min_documents: words in fewer documents are no part of the vocabulary.
        max_share: nor are words in more than this share of the documents, above 0 and up to 1.
        max_words: of the others, the most frequent so many.
        tokenizer: a function from a text in lower case to its words, or its dotted name; None: words are found by
            pattern.
        stop_words: ``english``, ``none``, or a file with one word a line.
        token_pattern: regular expression of a word; a group, if it has one, is the word. None: letters between two
            edges.
        min_letters: shorter words are left out; None: 3, or 1 with a tokenizer or a pattern.

    Raises:
        UserError: for an option out of range, for a tokenizer that fails, or where no word is left.
    """
    for name, value, least in (
        ("min_documents", min_documents, 1),
        ("max_words", max_words, 2),
        ("min_letters", 1 if min_letters is None else min_letters, 1),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UserError(f"task.load.{name} is {value!r}; give a whole number, {least} or more")
    if isinstance(max_share, bool) or not isinstance(max_share, int | float) or not 0 < max_share <= 1:
        raise UserError(f"task.load.max_share is {max_share!r}; give a number above 0 and up to 1")
    if tokenizer is not None and token_pattern is not None:
        raise UserError(
            f"task.load.tokenizer and task.load.token_pattern={token_pattern!r} both cut texts into words; give one"
        )
    own = tokenizer is not None or token_pattern is not None
    least = min_letters if min_letters is not None else 1 if own else 3
    cut = (
        by_function(tokenizer)
        if tokenizer is not None
        else by_pattern(token_pattern or "")
        if own
        else re.compile(LETTERS % least).findall
    )
    if not own:
        warn_of_marks(texts)
    out = stop_list(stop_words)
    documents = [[word for word in cut(text.lower()) if len(word) >= least and word not in out] for text in texts]
    vectorizer = needed("sklearn.feature_extraction.text").CountVectorizer(
        analyzer=list, min_df=min_documents, max_df=float(max_share), max_features=max_words
    )  # as an int, 1 is one document
    try:
        vectorizer.fit(documents)
    except ValueError as error:  # no text has a word, or none is left
        raise UserError(
            f"no word of {least} letter{'s' * (least > 1)} or more is in at least {min_documents} and at most "
            f"{100 * max_share:g}% of the {len(texts)} documents; give more text, lower task.load.min_documents or "
            f"raise task.load.max_share; {OTHER_WAYS}"
        ) from error
    vocabulary = tuple(vectorizer.get_feature_names_out().tolist())
    inside = set(vocabulary)
    return [[word for word in document if word in inside] for document in documents], vocabulary


def by_pattern(pattern: Any) -> Cut:
    """All that a regular expression finds in a text.

    Raises:
        UserError: for what is no regular expression, has two groups or finds words without a letter.
    """
    if not isinstance(pattern, str) or not pattern:
        raise UserError(f"task.load.token_pattern is {pattern!r}; give a regular expression, or null")
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise UserError(
            f"task.load.token_pattern={pattern!r} is no regular expression ({error}); write one as Python's re takes "
            r"it: 'task.load.token_pattern=\w+'"
        ) from error
    if compiled.groups > 1:
        raise UserError(
            f"task.load.token_pattern={pattern!r} has {compiled.groups} groups, and one at most can be the word; "
            "write (?:...) for the others"
        )
    if "" in compiled.findall(" a1, b"):
        raise UserError(f"task.load.token_pattern={pattern!r} finds words without a letter; write + in place of *")
    return lambda text: [word for found in compiled.findall(text) if (word := one_line(found))]


def by_function(tokenizer: str | Callable[[str], Any]) -> Cut:
    """The words that a function gives, without those that are blank.

    Raises:
        UserError: for what is none; the words' function raises it where the tokenizer fails or gives no words.
    """
    setting = f"task.load.tokenizer={tokenizer if isinstance(tokenizer, str) else type(tokenizer).__name__!r}"
    try:
        function = pkgutil.resolve_name(tokenizer) if isinstance(tokenizer, str) else tokenizer
    except Exception as error:  # a module of one's own may raise anything
        raise UserError(
            f"{setting} cannot be imported ({first(error)}); write MODULE.NAME of an installed module, or put its "
            "folder on PYTHONPATH"
        ) from error
    if not callable(function):
        raise UserError(f"{setting} is a {type(function).__name__}, and no function from a text to its words")

    def cut(text: str) -> list[str]:
        try:
            found = function(text)
            words = None if isinstance(found, str | bytes) else list(found)
        except Exception as error:
            raise UserError(
                f"{setting} fails ({first(error)}) at the document {text[:60]!r}; it takes a text and gives a list "
                "of words"
            ) from error
        if words is None or not all(isinstance(word, str) for word in words):
            kind = (
                type(found).__name__ if words is None else f"{type(found).__name__} that holds other things than texts"
            )
            raise UserError(
                f"{setting} gives a {kind} for the document {text[:60]!r}; it takes a text and gives a list of words"
            )
        return [word for each in words if (word := one_line(each))]

    return cut


def one_line(word: str) -> str:
    """A word without blanks around it and with single ones in it: vocabularies are kept one word a line."""
    return " ".join(word.split())


def stop_list(stop_words: Any) -> set[str]:
    """Words that are left out.

    Raises:
        UserError: for a file that cannot be read, or has two words in a line.
    """
    if stop_words == "none":
        return set()
    if stop_words == "english":
        return LEFTOVERS.union(needed("sklearn.feature_extraction.text").ENGLISH_STOP_WORDS)
    file = place(stop_words, "task.load.stop_words")
    if not file.is_file():
        raise UserError(
            f"task.load.stop_words={str(file)!r} is no file; give english, none, or a file of text with one word a line"
        )
    words = [line.strip().lower() for line in lines(read_text(file, "task.load.stop_words"))]
    for number, word in enumerate(words, 1):
        if len(word.split()) > 1:
            raise UserError(
                f"task.load.stop_words={str(file)!r} has {word[:60]!r} in line {number}; it takes one word a line"
            )
    return {word for word in words if word}


def warn_of_marks(texts: Sequence[str]) -> None:
    """Log that words are cut at vowel signs and accents of their own, as in Hindi, Thai and decomposed accents."""
    between = re.compile(r"[^\W\d_]([^\w\s]+)(?=[^\W\d_])")
    marked = sum(
        any(all(unicodedata.category(c)[0] == "M" for c in found) for found in set(between.findall(text)))
        for text in texts
    )
    if marked:
        log.warning(
            r"%d of %d documents have words with combining marks, at which words are cut; "
            r"'task.load.token_pattern=\S+' takes all between two blanks",
            marked,
            len(texts),
        )


def first(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
