"""Search: ``python -m rwkd_lightning.systems.retrieval.search RUN "a query"``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from rwkd_lightning.systems.retrieval.beir import documents_of
from rwkd_lightning.systems.retrieval.sentence_folder import read_student, student_digest, student_of
from rwkd_lightning.systems.retrieval.source import load_collection
from rwkd_lightning.systems.retrieval.tokens import Texts
from rwkd_lightning.systems.retrieval.vectors import Index
from rwkd_lightning.utils.commands import quietly, run, status
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.paths import place

SHOWN = 100
"""Characters of a document that are printed."""


class Searcher:
    """A student with the index that it has made.

    Args:
        student: ``student/`` of a run.
        index: its folder.

    Raises:
        UserError: if either cannot be read, or the index is another student's.
    """

    def __init__(self, student: Path, index: Path) -> None:
        self.student, self.tokenizer, self.settings = read_student(student)
        self.index = Index(index)
        if self.index.student != student_digest(student):
            raise UserError(f"{index} was made by another student than {student}; build it again with this one")

    @torch.inference_mode()
    def __call__(self, queries: Sequence[str], top: int = 10) -> list[list[tuple[str, float]]]:
        """The best documents of each query, identifier and cosine, best first."""
        if isinstance(queries, str):
            raise UserError(f"queries is the text {queries[:60]!r}; give a list of texts")
        texts = Texts(queries, self.tokenizer, self.settings["query_length"], "query")
        return self.index.search(self.student.vectors(texts.batch(range(len(texts))), "query"), top)


def texts_of(run_folder: Path, corpus: str | None) -> dict[str, str]:
    """The documents' texts by identifier: of a file, or of the run's own collection; none where that is gone."""
    if corpus is not None:
        return dict(zip(*documents_of(place(corpus, "--corpus")), strict=True))
    try:
        from omegaconf import OmegaConf

        collection = load_collection(OmegaConf.load(run_folder / "config.yaml").data.path)
    except (OSError, AttributeError, UserError):
        return {}
    return dict(zip(collection.ids, collection.texts, strict=True))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m rwkd_lightning.systems.retrieval.search",
        description="The best documents for a query: cosine, identifier and the beginning of the text.",
    )
    parser.add_argument("run", metavar="RUN", help="the folder of a finished run of task=retrieval, or its student/")
    parser.add_argument("query", metavar="QUERY", nargs="+", help="one or more")
    parser.add_argument("--index", help="of another corpus; none: the run's own")
    parser.add_argument("--corpus", help="JSON lines with the texts to show; none: the run's own collection")
    parser.add_argument("--top", type=int, default=10, help="documents of a query (10)")
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each query")
    options = parser.parse_args(arguments)

    def work() -> None:
        quietly()
        student = student_of(options.run)
        index = student.parent / "index" if options.index is None else place(options.index, "--index")
        if options.top < 1:
            raise UserError(f"--top={options.top}; give 1 or more")
        found = Searcher(student, index)(options.query, options.top)
        texts = {} if options.json else texts_of(student.parent, options.corpus)
        for query, hits in zip(options.query, found, strict=True):
            if options.json:
                print(json.dumps({"query": query, "documents": [{"id": name, "score": s} for name, s in hits]}))
                continue
            print(query)
            for name, score in hits:
                print(f"  {score:.3f}  {name}  {texts.get(name, '')[:SHOWN]}".rstrip())

    return status(work)


if __name__ == "__main__":
    run(main)
