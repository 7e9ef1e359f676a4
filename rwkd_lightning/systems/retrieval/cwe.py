"""The offline collection: which software weakness (CWE) does a sentence about a vulnerability (CVE) speak of?

Read from MITRE's catalogue in the PyPI package ``cwe2``. Documents are weaknesses; queries are MITRE's sentences about
observed examples; a weakness that lists a sentence is relevant to it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from rwkd_lightning.systems.retrieval.collection import TEST, TRAIN, VALIDATION, Collection, Queries
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.paths import place

SPACE = "{http://cwe.mitre.org/cwe-7}"
FILE = "database_v49/cwec_v4.14.xml"
NAMED = re.compile(r"\s*\(?\[?\bCWE-\d+\b\]?\)?")
SPLIT_OF = [TEST, TEST, VALIDATION, *[TRAIN] * 7]
"""Of ten parts: by the hash of a query group's smallest reference."""


def load_cwe(path: str | None = None) -> Collection:
    """Read the catalogue: 938 documents and 2,018 queries in version 4.14.

    Queries lose numbers of weaknesses ("(CWE-79)"), and those that share a CVE stay in one split.

    Args:
        path: of MITRE's XML file; None: that of the package ``cwe2``.

    Raises:
        UserError: if the package is not installed, or the file is no such catalogue.
    """
    file = packaged() if path is None else place(path, "data.path")
    try:
        root = ElementTree.parse(file).getroot()
    except (ElementTree.ParseError, OSError) as error:
        raise UserError(f"{file} cannot be read as MITRE's CWE catalogue ({error}); give its XML file") from error
    weaknesses = [w for w in root.iter(f"{SPACE}Weakness") if w.get("Status") != "Deprecated"]
    if not weaknesses:
        raise UserError(f"{file} holds no Weakness of {SPACE.strip('{}')}; give MITRE's CWE catalogue, its XML file")
    ids, texts = [], []
    relevant: dict[str, dict[int, float]] = {}
    references: dict[str, set[str]] = {}
    for number, weakness in enumerate(weaknesses):
        ids.append(f"CWE-{weakness.get('ID')}")
        parts = [str(weakness.get("Name")), *(words(weakness.find(f"{SPACE}{n}")) for n in DESCRIPTIONS)]
        texts.append(" ".join(part for part in parts if part))
        for example in weakness.iter(f"{SPACE}Observed_Example"):
            query = " ".join(NAMED.sub("", words(example.find(f"{SPACE}Description"))).split())
            if query:
                relevant.setdefault(query, {})[number] = 1.0
                references.setdefault(query, set()).add(words(example.find(f"{SPACE}Reference")))
    return Collection("cwe", ids, texts, dealt(relevant, references))


DESCRIPTIONS = ("Description", "Extended_Description")


def packaged() -> Path:
    """The catalogue in the package ``cwe2``."""
    spec = importlib.util.find_spec("cwe2")  # found, not imported
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            'task "retrieval" needs the package cwe2: pip install "rwkd_lightning[offline]", or give a directory in '
            "BEIR's layout: data.path=DIR"
        )
    return Path(spec.submodule_search_locations[0]) / FILE


def words(element: ElementTree.Element | None) -> str:
    """All text within an element."""
    return "" if element is None else " ".join(" ".join(element.itertext()).split())


def dealt(relevant: dict[str, dict[int, float]], references: dict[str, set[str]]) -> dict[str, Queries]:
    """The queries by split; those that share a reference, directly or by others between them, are one group."""
    groups = grouped(references)
    parts: dict[str, list[str]] = {TRAIN: [], VALIDATION: [], TEST: []}
    for query in relevant:
        number = int(hashlib.sha1(groups[query].encode()).hexdigest(), 16) % 10
        parts[SPLIT_OF[number]].append(query)
    return {
        name: Queries(
            [hashlib.sha1(query.encode()).hexdigest()[:12] for query in queries],
            queries,
            [relevant[query] for query in queries],
            [groups[query] for query in queries],
        )
        for name, queries in parts.items()
    }


def grouped(references: dict[str, set[str]]) -> dict[str, str]:
    """The smallest reference of each query's group."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for names in references.values():
        first, *others = sorted(names)
        for other in others:
            low, high = sorted((root(first), root(other)))
            parent[high] = low
    return {query: root(min(names)) for query, names in references.items()}
