"""Corpora in the format of OCTIS: preprocessed texts with their vocabulary."""

from __future__ import annotations

from pathlib import Path

from rwkd_lightning.systems.topics.corpus import Corpus, make_corpus
from rwkd_lightning.systems.topics.text_file import PATH, lines, read_text
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.paths import place

DOCUMENTS, VOCABULARY = "corpus.tsv", "vocabulary.txt"


def load_octis(folder: str | Path) -> Corpus:
    """Load ``corpus.tsv`` (text, partition, label; the last two may lack) and ``vocabulary.txt`` (one word per line).

    The texts are the preprocessed ones; the partition is not used. Words that are not in the vocabulary are left out.

    Raises:
        UserError: if a file is missing or is not of this format, or for what `make_corpus` refuses.
    """
    root = place(folder, PATH)
    for name in (DOCUMENTS, VOCABULARY):
        if not (root / name).is_file():
            raise UserError(
                f"{PATH}={str(root)!r} has no {name}; a corpus in the format of OCTIS has {DOCUMENTS} and {VOCABULARY}"
            )
    vocabulary = [line.strip() for line in lines(read_text(root / VOCABULARY))]
    for number, word in enumerate(vocabulary, 1):
        if len(word.split()) != 1:
            raise UserError(
                f"{PATH}: {str(root / VOCABULARY)!r} has {word!r} in line {number}; it takes one word a line"
            )
    rows = [line.split("\t") for line in lines(read_text(root / DOCUMENTS))]
    fields = len(rows[0])
    for number, row in enumerate(rows, 1):
        where = f"{PATH}: {str(root / DOCUMENTS)!r} has"
        if len(row) != fields or fields > 3:
            raise UserError(
                f"{where} {len(row)} fields in line {number}, and {fields} in line 1; each line is text, partition "
                "and label with tabs between them, or the first one or two of them"
            )
        if fields == 3 and not row[2].strip():
            raise UserError(f"{where} no label in line {number}; give each document one, or leave the column out")
    labels = [row[2].strip() for row in rows] if fields == 3 else None
    texts = [row[0].strip() for row in rows]
    return make_corpus(root.resolve().name, texts, [text.split() for text in texts], vocabulary, labels)
