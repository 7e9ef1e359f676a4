"""Tags of new sentences: ``python -m rwkd_lightning.systems.tokens.tag RUN/student FILE --to OUT``."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from rwkd_lightning.systems.text.data.collate import Collator, EncodedSplit
from rwkd_lightning.systems.tokens.encoding import encode, padded, width
from rwkd_lightning.systems.tokens.loading import load_tagger, load_word_tokenizer
from rwkd_lightning.systems.tokens.reader import Fields, read_sentences
from rwkd_lightning.systems.tokens.schemes import OUTSIDE
from rwkd_lightning.utils import commands
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.model_files import read_config
from rwkd_lightning.utils.paths import place, replaced

FILE = "words.json"
"""In a student's folder: how many tokens of a sentence it reads."""


class Student:
    """A finished student with its tokenizer.

    Args:
        folder: ``student/`` of a run.

    Raises:
        UserError: if the folder holds none.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self.max_length = int(json.loads((folder / FILE).read_text())["max_length"])
            names = read_config(folder, str(folder))["id2label"]
            self.tags = [names[str(number)] for number in range(len(names))]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{str(folder)!r} is no student of task=tokens ({' '.join(str(error).split())[:160]}); give student/ "
                "in the folder that `results in` names at the end of train.py"
            ) from error
        self.tokenizer = load_word_tokenizer(str(folder))
        self.tagger = load_tagger(str(folder), self.tags, trained=True).eval()

    @torch.inference_mode()
    def tag(self, sentences: list[list[str]], batch_size: int = 32) -> list[list[str]]:
        """A tag for every word: of one that is not read O, or where there is no O nothing; the log says how many."""
        table, starts = encode(sentences, self.tokenizer, self.max_length, "file")
        places = padded(starts, width(starts), -1)
        rows = EncodedSplit(table, torch.zeros(len(sentences), dtype=torch.long), {"starts": places.clamp_min(0)})
        collate, unread = Collator(self.tokenizer), OUTSIDE if OUTSIDE in self.tags else ""
        found: list[list[str]] = []
        for begin in range(0, len(rows), batch_size):
            part = range(begin, min(begin + batch_size, len(rows)))
            chosen = self.tagger(collate([rows[i] for i in part]))["logits"].argmax(-1)
            for i, row in zip(part, chosen.tolist(), strict=True):
                found.append([self.tags[row[w]] if place >= 0 else unread for w, place in enumerate(starts[i])])
        return found


def describe(folder: Path, max_length: int) -> None:
    """Write how sentences are read beside a student."""
    (folder / FILE).write_text(json.dumps({"max_length": max_length}) + "\n")


def lines(
    sentences: Sequence[Sequence[str]], tags: Sequence[Sequence[str]], fields: Fields, as_json: bool
) -> Iterator[str]:
    """The sentences with their tags: two columns, or JSON lines."""
    for words, said in zip(sentences, tags, strict=True):
        if as_json:
            yield json.dumps({fields.tokens: list(words), fields.tags: list(said)}, ensure_ascii=False)
        else:
            yield from (f"{word}\t{tag}" for word, tag in zip(words, said, strict=True))
            yield ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status, 1 for a mistake reported in one line."""
    parser = argparse.ArgumentParser(
        prog="python -m rwkd_lightning.systems.tokens.tag", description="Ask a finished student for the tags of a file."
    )
    parser.add_argument("student", help="the folder student/ of a run of task=tokens")
    parser.add_argument("file", help="the sentences: columns, or JSON lines (.jsonl, .json); tags in it are not read")
    parser.add_argument("--to", required=True, help="the file to write: JSON lines (.jsonl, .json), else two columns")
    parser.add_argument("--token-column", type=int, default=0, help="of the word in a line, from 0 (0)")
    parser.add_argument("--tokens", default="tokens", help="of JSON lines, the key of the words (tokens)")
    parser.add_argument("--encoding", help="of the file (UTF-8, or UTF-16 with a mark)")
    parser.add_argument("--force", action="store_true", help="replace the file to write")
    options = parser.parse_args(arguments)

    def work() -> None:
        logging.basicConfig(format="%(message)s", level=logging.WARNING)
        logging.getLogger("rwkd_lightning").setLevel(logging.INFO)
        to, fields = place(options.to, "--to"), Fields(options.token_column, tokens=options.tokens)
        if to.exists() and not (options.force and to.is_file()):
            raise UserError(f"--to={str(to)!r} exists; add --force to replace it, or give another file")
        sentences = read_sentences(options.file, "file", fields, options.encoding, tagged=False)
        tags = Student(place(options.student, "student")).tag(sentences.tokens)
        write(to, lines(sentences.tokens, tags, fields, to.suffix in (".jsonl", ".json")))
        print(f"wrote {to} ({len(sentences)} sentences)")

    return commands.status(work)


def write(to: Path, text: Iterator[str]) -> None:
    """Lines to a file, moved into place at the end; UserError where that is not possible."""
    try:
        with replaced(to) as part:
            part.write_text("\n".join(text) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"--to={str(to)!r} cannot be written ({error.strerror}); name a file in another folder"
        ) from error


if __name__ == "__main__":
    commands.run(main)
