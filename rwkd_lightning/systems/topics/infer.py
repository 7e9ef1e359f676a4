"""Topics of new documents: ``python -m rwkd_lightning.systems.topics.infer RUN/student FILE``, as CSV.

The student reads sentence embeddings alone, so a document needs none of the vocabulary's words.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rwkd_lightning.systems.topics.documents import KINDS, read_documents
from rwkd_lightning.systems.topics.encoder import load_encoder
from rwkd_lightning.systems.topics.metrics import top_words
from rwkd_lightning.systems.topics.model import TopicModel, load
from rwkd_lightning.systems.topics.text_file import Settings
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.model_files import find
from rwkd_lightning.utils.paths import place, replaced

OPTIONS = Settings("file", "--column", "", "--delimiter '{}'")  # a document's label is not asked for


class Student:
    """A shipped student with its vocabulary and its sentence encoder.

    Args:
        folder: ``student/`` of a run.
        encoder: another place of the same encoder; None: where the run had it.
        device: of both.

    Raises:
        UserError: if the folder holds none, for a student that reads word counts too, and as `load_encoder` raises.
    """

    def __init__(self, folder: Path, encoder: str | None = None, device: str = "cpu") -> None:
        self.model: TopicModel = load(folder).to(device)
        if self.model.shape.bag_of_words:
            raise UserError(
                f"{folder}: this student reads word counts too, and those of new documents are not prepared here; "
                "distil one with train.py and pair.student.bag_of_words=false"
            )
        try:
            self.vocabulary = (folder / "vocabulary.txt").read_text(encoding="utf-8").splitlines()
            if len(self.vocabulary) != self.model.shape.vocabulary:
                raise ValueError(
                    f"vocabulary.txt has {len(self.vocabulary)} words, the model {self.model.shape.vocabulary}"
                )
            path = json.loads((folder / "encoder.json").read_text())["encoder"] if encoder is None else encoder
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{folder} is not a whole student ({error}); give the folder student/ of a run of task=topics"
            ) from error
        try:
            self.encoder: Any = load_encoder(find(path), path, device)
        except UserError as error:
            raise UserError(
                f"{error} (another place of the student's sentence encoder: --encoder DIR, in Python encoder='DIR')"
            ) from error
        width = len(self.encoder.encode("a"))
        if width != self.model.shape.embedding:
            raise UserError(
                f"encoder {path!r} gives {width} numbers a sentence, and the student reads "
                f"{self.model.shape.embedding}; give the one that it was distilled with (--encoder DIR, in Python "
                "encoder='DIR')"
            )

    def words(self, count: int = 10) -> list[list[str]]:
        """The top words of each topic, as the decoder has them."""
        return top_words(self.model.topic_words().cpu(), self.vocabulary, count)

    @torch.inference_mode()
    def shares(self, texts: Sequence[str]) -> Tensor:
        """Share of each topic in each text ``(N, K)``; a row depends on its text alone.

        Raises:
            UserError: for a single text, which would be read letter by letter.
        """
        if isinstance(texts, str):
            raise UserError(f"shares of the text {texts[:60]!r}; give a list of texts")
        if not len(texts):
            return torch.empty(0, self.model.shape.topics)
        embedded = self.encoder.encode(list(texts), convert_to_tensor=True, show_progress_bar=len(texts) > 1000)
        mu, log_var = self.model.encode({"embeddings": embedded.float().clone()})
        return self.model.mixture(mu.cpu(), log_var.cpu())


def write(to: Any, shares: Tensor, words: Sequence[Sequence[str]]) -> None:
    """One row per document: its number, its largest topic with three words of it, and the share of each topic."""
    table = csv.writer(to)
    table.writerow(["document", "topic", "words", *(f"topic_{k}" for k in range(shares.shape[1]))])
    for number, row in enumerate(shares):
        largest = int(row.argmax())
        table.writerow([number, largest, " ".join(words[largest][:3]), *(f"{share:.4f}" for share in row.tolist())])


def destination(text: str) -> Path:
    """Where the CSV file goes, checked before anything is computed.

    Raises:
        UserError: for a folder or a device, or where no file can be written.
    """
    to = place(text, "--to")
    try:
        if to.exists() and not to.is_file():
            raise UserError(f"--to={text!r} is no file; name one that may be replaced, or a new one")
        tempfile.TemporaryFile(dir=to.parent).close()
    except OSError as error:
        raise UserError(f"--to={text!r} cannot be written ({error.strerror}); name a file in another folder") from error
    return to


def write_file(to: Path, shares: Tensor, words: Sequence[Sequence[str]]) -> None:
    """`write` to a file, replaced in one move."""
    try:
        with replaced(to) as part, part.open("w", newline="", encoding="utf-8") as file:
            write(file, shares, words)
    except OSError as error:
        raise UserError(
            f"--to={str(to)!r} cannot be written ({error.strerror}); name a file in another folder"
        ) from error


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m rwkd_lightning.systems.topics.infer", description=__doc__.splitlines()[0]
    )
    parser.add_argument("student", help="the folder student/ of a run of task=topics")
    parser.add_argument("file", help=f"the documents, one a line or row: {KINDS}")
    parser.add_argument("--column", default="text", help="of the documents in a table or in JSON (text)")
    parser.add_argument("--delimiter", help="of a table (a comma, or a tab in a .tsv)")
    parser.add_argument("--encoder", help="another place of the sentence encoder")
    parser.add_argument("--to", help="a CSV file to write; none: the standard output")
    options = parser.parse_args(arguments)
    try:
        file = place(options.file, OPTIONS.path)
        texts = [document.text for document in read_documents(file, options.column, None, options.delimiter, OPTIONS)]
        if not texts:
            raise UserError(f"{OPTIONS.path}={options.file!r} has no documents; give one or more")
        to = None if options.to is None else destination(options.to)
        student = Student(place(options.student, "student"), options.encoder)
        shares = student.shares(texts)
        if to is None:
            write(sys.stdout, shares, student.words(3))
        else:
            write_file(to, shares, student.words(3))
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
