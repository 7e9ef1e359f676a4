"""Index a corpus for search: ``python -m rwkd_lightning.systems.retrieval.index RUN CORPUS --to FOLDER``.

The corpus, JSON lines as BEIR has them, is streamed: a part is encoded, written and forgotten, and an interrupted
command goes on with the next part.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from rwkd_lightning.cache.store import file_digest
from rwkd_lightning.systems.retrieval.beir import records
from rwkd_lightning.systems.retrieval.scoring import encode
from rwkd_lightning.systems.retrieval.sentence_folder import read_student, student_digest, student_of
from rwkd_lightning.systems.retrieval.tokens import Texts
from rwkd_lightning.systems.retrieval.vectors import parts_there, read_summary, write_part, write_summary
from rwkd_lightning.utils.commands import quietly, run, status
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.paths import place

PART = 4096
"""Documents of a part."""


def build(student: Path, corpus: Path, to: Path, batch_size: int, device: torch.device) -> int:
    """Index the corpus into a folder, from where an earlier call was interrupted; returns the number of documents.

    Raises:
        UserError: if the folder holds something else, or an index of another student or corpus.
    """
    network, tokenizer, settings = read_student(student)
    made_of = {"student": student_digest(student), "corpus": file_digest(corpus)}
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        there = read_summary(to) if to.is_dir() else None
        if there is None or {name: there.get(name) for name in made_of} != made_of:
            raise UserError(f"--to={str(to)!r} holds something else; name a new folder, or remove it")
    to.mkdir(parents=True, exist_ok=True)
    if "documents" in (there := read_summary(to) or {}):
        return int(there["documents"])
    write_summary(to, made_of)
    done, total = sum(1 for _ in parts_there(to)), 0
    for number, part in enumerate(parts(corpus)):
        total += len(part)
        if number < done:
            continue
        texts = Texts([text for _, text in part], tokenizer, settings["document_length"], "document")
        vectors = encode(network, texts, batch_size, device, f"documents {total - len(part):,} to {total:,}")
        write_part(to, number, [name for name, _ in part], vectors)
    if not total:
        raise UserError(f"{corpus} holds no document")
    write_summary(to, {**made_of, "parts": -(-total // PART), "documents": total})
    return total


def parts(corpus: Path) -> Iterator[list[tuple[str, str]]]:
    """Identifiers and texts, a part at a time."""
    rows = (
        (name, " ".join(f"{record.get('title') or ''} {record['text'] or ''}".split()))
        for name, record in records(corpus)
    )
    while part := list(itertools.islice(rows, PART)):
        yield part


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m rwkd_lightning.systems.retrieval.index",
        description="Index a corpus with the student of a finished run; an interrupted command goes on where it was.",
    )
    parser.add_argument("run", metavar="RUN", help="the folder of a finished run of task=retrieval, or its student/")
    parser.add_argument("corpus", metavar="CORPUS", help='JSON lines {"_id", "title", "text"}; .gz too')
    parser.add_argument("--to", required=True, metavar="FOLDER", help="of the index")
    parser.add_argument("--batch-size", type=int, default=64, help="documents that are encoded at once (64)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args(arguments)

    def work() -> None:
        quietly()
        corpus = place(options.corpus, "CORPUS")
        if not corpus.is_file():
            raise UserError(f"CORPUS={options.corpus!r} is not a file; give JSON lines")
        device = torch.device(options.device)
        count = build(student_of(options.run), corpus, place(options.to, "--to"), options.batch_size, device)
        print(f"{count:,} documents in {options.to}")

    return status(work, "interrupted; the same command goes on from here")


if __name__ == "__main__":
    run(main)
