"""Where a text model's files are; those of this package's own kinds are known too."""

from __future__ import annotations

from pathlib import Path

from rwkd_lightning.utils import model_files


def find(path: str) -> Path:
    """As `model_files.find`."""
    known()
    return model_files.find(path)


def known() -> None:
    """Make transformers' Auto classes know the kinds of students that are this package's."""
    from rwkd_lightning.systems.text import kinds

    assert kinds.KINDS
