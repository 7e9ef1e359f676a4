"""The collection that ``data.path`` names."""

from __future__ import annotations

from pathlib import Path

from rwkd_lightning.systems.retrieval.beir import load_beir
from rwkd_lightning.systems.retrieval.collection import Collection
from rwkd_lightning.systems.retrieval.cwe import load_cwe


def load_collection(path: str | None = None) -> Collection:
    """A directory in BEIR's layout, MITRE's catalogue of weaknesses as an XML file, or with None the packaged one.

    Raises:
        UserError: as ``load_beir`` and ``load_cwe``.
    """
    if path is None or Path(path).suffix.lower() == ".xml":
        return load_cwe(path)
    return load_beir(path)
