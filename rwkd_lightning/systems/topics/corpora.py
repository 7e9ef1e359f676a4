"""A corpus by its path: the tweets, a folder in the format of OCTIS, or a file of documents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rwkd_lightning.systems.topics.corpus import Corpus
from rwkd_lightning.systems.topics.documents import KINDS, load_documents
from rwkd_lightning.systems.topics.octis import DOCUMENTS, VOCABULARY, load_octis
from rwkd_lightning.systems.topics.text_file import PATH
from rwkd_lightning.systems.topics.tweets import load_tweets_corpus
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.paths import place

WORDS = ("min_documents", "max_share", "max_words", "tokenizer", "stop_words", "token_pattern", "min_letters")


def load_corpus(
    path: str | None = None,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    delimiter: str | None = None,
    min_documents: int | None = None,
    max_share: float | None = None,
    max_words: int | None = None,
    tokenizer: str | Callable[[str], Any] | None = None,
    stop_words: str | None = None,
    token_pattern: str | None = None,
    min_letters: int | None = None,
    documents: int | None = None,
    seed: int | None = None,
) -> Corpus:
    """Load the corpus at a path; an option that is None is the loader's own default.

    Args:
        path: None: the tweets (`load_tweets_corpus`); a folder with corpus.tsv (`load_octis`); a file
            (`load_documents`).
        text_column, label_column, delimiter: for files.
        min_documents, max_share, max_words, tokenizer, stop_words, token_pattern, min_letters: for files and tweets,
            see `preprocess`.
        documents, seed: for tweets.

    Raises:
        UserError: if there is nothing of this kind, for an option of another kind of corpus, or as the loader raises.
    """
    given = {
        "text_column": text_column,
        "label_column": label_column,
        "delimiter": delimiter,
        "min_documents": min_documents,
        "max_share": max_share,
        "max_words": max_words,
        "tokenizer": tokenizer,
        "stop_words": stop_words,
        "token_pattern": token_pattern,
        "min_letters": min_letters,
        "documents": documents,
        "seed": seed,
    }
    options = {name: value for name, value in given.items() if value is not None}
    if path is None:
        return _load(load_tweets_corpus, options, ("documents", "seed", *WORDS), "the tweets")
    at = place(path, PATH)
    if (at / DOCUMENTS).is_file():
        return _load(lambda: load_octis(at), options, (), "a corpus in the format of OCTIS")
    if not at.is_file():
        what = f"is a folder without {DOCUMENTS}" if at.is_dir() else "is not there"
        raise UserError(
            f"{PATH}={str(at)!r} {what}; give a folder with {DOCUMENTS} and {VOCABULARY} (the format of OCTIS), a "
            f"file that ends in one of {KINDS}, or null for the tweets"
        )
    return _load(
        lambda **chosen: load_documents(at, **chosen),
        options,
        ("text_column", "label_column", "delimiter", *WORDS),
        "a file of documents",
    )


def _load(load: Callable[..., Corpus], options: dict[str, Any], takes: tuple[str, ...], kind: str) -> Corpus:
    if other := [name for name in options if name not in takes]:
        raise UserError(
            f"task.load.{other[0]}={options[other[0]]!r} does not apply to {kind}; leave it out "
            f"(it takes {', '.join(takes) or 'no options'})"
        )
    return load(**options)
