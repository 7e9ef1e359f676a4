"""The offline data: what the operations and structures of Amazon's services do, in a sentence.

Read from the service descriptions in the PyPI package ``botocore``, which is not imported. A document is the name of
the service, the words of the operation's name and its documentation without the first sentence; that sentence is its
summary.
"""

from __future__ import annotations

import gzip
import html
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rwkd_lightning.utils.errors import UserError

LEAST_REST, LEAST_WORDS, MOST_WORDS = 60, 3, 30
"""Characters of a document's rest, and words of a summary."""
NOTICE = re.compile(
    r"(this (operation|action|api|structure|data type) is (not|deprecated|no longer))|important\b|note\b|for more\b",
    re.I,
)
SENTENCE = re.compile(r"(?<=[.!?])[)\"'”]?\s+(?=[A-Z0-9\"'(“])")
NAME = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")
Row = tuple[str, str, str]
"""Service, document and summary."""


def api_docs(folder: Path | None = None) -> list[Row]:
    """One row a summary and a rest, in the order of services and names.

    Args:
        folder: the services, a folder each; None: those of the installed ``botocore``.

    Raises:
        UserError: if the package is not installed, or the folder holds no descriptions.
    """
    root = packaged() if folder is None else folder
    rows: list[Row] = []
    sentences, rests = set[str](), set[str]()
    for file in latest(root):
        for service, name, text in described(file):
            sentence, rest = parted(text)
            document = f"{service}: {' '.join(NAME.findall(name)).lower()}. {rest}"
            if not fits(sentence, rest) or sentence.casefold() in sentences or rest.casefold() in rests:
                continue
            sentences.add(sentence.casefold())
            rests.add(rest.casefold())
            rows.append((service, document, sentence))
    if not rows:
        raise UserError(f"{root} holds no descriptions of services with texts; pip install --force-reinstall botocore")
    return rows


def packaged() -> Path:
    """The folder of the installed package's services."""
    spec = importlib.util.find_spec("botocore")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "task=summaries reads the texts of the package botocore, which is not installed; pip install botocore, or "
            "give texts of your own: data.path=DIR"
        )
    return Path(spec.submodule_search_locations[0]) / "data"


def latest(root: Path) -> Iterator[Path]:
    """The description of each service, its last version."""
    for service in sorted(folder for folder in root.iterdir() if folder.is_dir()) if root.is_dir() else ():
        files = [file for version in service.iterdir() if version.is_dir() for file in version.glob("service-2.json*")]
        if files:
            yield max(files, key=lambda file: file.parent.name)


def described(file: Path) -> Iterator[tuple[str, str, str]]:
    """Service, name and plain documentation of each operation and structure of a file."""
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        model: dict[str, Any] = json.loads(content)
        service = str(model["metadata"]["serviceId"])
        shapes = {name: shape for name, shape in model["shapes"].items() if shape["type"] == "structure"}
        for name, thing in [*model["operations"].items(), *shapes.items()]:
            yield service, name, plain(str(thing.get("documentation") or ""))
    except (OSError, ValueError, KeyError, AttributeError, TypeError, EOFError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{file} is no description of a service ({reason}); pip install --force-reinstall botocore"
        ) from error


def plain(markup: str) -> str:
    """The words of a piece of HTML."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", markup)).split()).replace(" .", ".").replace(" ,", ",")


def parted(text: str) -> tuple[str, str]:
    """The first sentence of a text, and the rest."""
    sentence, *rest = SENTENCE.split(text, maxsplit=1)
    return sentence, rest[0] if rest else ""


def fits(sentence: str, rest: str) -> bool:
    """Whether a sentence may stand for what follows it."""
    words = len(sentence.split())
    return len(rest) >= LEAST_REST and LEAST_WORDS <= words <= MOST_WORDS and NOTICE.match(sentence) is None


def header(document: str) -> str:
    """The words of the name that a document of these begins with."""
    return document.partition(". ")[0]
