"""From raw texts to words: the usual preprocessing for topic models."""

from __future__ import annotations

from collections.abc import Sequence

from rwkd_lightning.errors import UserError
from rwkd_lightning.topics.needs import needed

WORD = r"(?u)\b[^\W\d_]{3,}\b"
LEFTOVERS = {"ain", "aren", "couldn", "didn", "doesn", "don", "hadn", "hasn", "haven", "isn", "mustn", "needn", "shouldn", "wasn",
             "weren", "wouldn",  # of contractions, which are cut at the apostrophe
             "amp", "com", "http", "https", "quot", "www"}  # of addresses and HTML


def preprocess(texts: Sequence[str], min_documents: int = 5, max_share: float = 0.5, max_words: int = 2000
               ) -> tuple[list[list[str]], tuple[str, ...]]:
    """The words of each text, in order, and the vocabulary, sorted: lower case, 3 letters or more, no English stop words.

    Args:
        min_documents: words in fewer documents are no part of the vocabulary.
        max_share: nor are words in more than this share of the documents, above 0 and up to 1.
        max_words: of the others, the most frequent so many.

    Raises:
        UserError: for an option out of range, or where no word is left.
    """
    for name, value, least in (("min_documents", min_documents, 1), ("max_words", max_words, 2)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UserError(f"task.load.{name} is {value!r}; give a whole number, {least} or more")
    if isinstance(max_share, bool) or not isinstance(max_share, int | float) or not 0 < max_share <= 1:
        raise UserError(f"task.load.max_share is {max_share!r}; give a number above 0 and up to 1")
    library = needed("sklearn.feature_extraction.text")
    vectorizer = library.CountVectorizer(
        lowercase=True, stop_words=sorted(library.ENGLISH_STOP_WORDS | LEFTOVERS), token_pattern=WORD, min_df=min_documents,
        max_df=float(max_share), max_features=max_words)  # as a whole number, 1 would be one document
    try:
        vectorizer.fit(texts)
    except ValueError as error:  # no text has a word, or none is left
        raise UserError(f"no word of 3 letters or more is in at least {min_documents} and at most {100 * max_share:g}% of the "
                        f"{len(texts)} documents; give more text, lower task.load.min_documents or raise task.load.max_share"
                        ) from error
    vocabulary = tuple(vectorizer.get_feature_names_out().tolist())
    inside, analyze = set(vocabulary), vectorizer.build_analyzer()
    return [[word for word in analyze(text) if word in inside] for text in texts], vocabulary
