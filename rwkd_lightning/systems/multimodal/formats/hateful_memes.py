"""The layout of Hateful Memes (Kiela et al., NeurIPS 2020): ``train.jsonl``, ``dev.jsonl``, ``test.jsonl`` and the
pictures that their rows name.
"""

from __future__ import annotations

import json
from pathlib import Path

from rwkd_lightning.systems.multimodal.collection import TEST, TRAIN, VALIDATION
from rwkd_lightning.systems.multimodal.formats.raw import Row, row
from rwkd_lightning.systems.multimodal.formats.values import labels, name, words
from rwkd_lightning.utils.errors import UserError

FILES = {
    TRAIN: ("train.jsonl",),
    VALIDATION: ("dev.jsonl", "dev_seen.jsonl", "validation.jsonl"),
    TEST: ("test.jsonl", "test_seen.jsonl"),
}
"""The first that is there is read."""


def fits(folder: Path) -> bool:
    """Whether the folder has this layout."""
    return (folder / "train.jsonl").is_file()


def read(folder: Path, text: str, image: str, label: str, separator: str | None = None) -> dict[str, list[Row]]:
    """The splits that are there; a test split none of whose rows has a label is that of a competition and left out.

    Args:
        text, image, label: keys of a row.
        separator: of the labels of one row; None: a row has one, or a list of them.

    Raises:
        UserError: for a line that is no row.
    """
    found = {}
    for split, names in FILES.items():
        file = next((folder / name for name in names if (folder / name).is_file()), None)
        if file is not None:
            rows = read_lines(file, text, image, label, separator)
            if split == TRAIN or any(one.label is not None for one in rows):
                found[split] = rows
    return found


def read_lines(file: Path, text: str, image: str, label: str, separator: str | None) -> list[Row]:
    """The rows of one file."""
    found = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            place = f"{file.name}, line {number}"
            try:
                entry = json.loads(line)
            except ValueError as error:
                raise UserError(f"{place} is no JSON ({error}); write one object per line") from error
            if not isinstance(entry, dict) or (text not in entry and image not in entry):
                keys = ", ".join(entry) if isinstance(entry, dict) else type(entry).__name__
                raise UserError(
                    f"{place} has neither {text!r} nor {image!r}, only {keys}; set data.text=KEY and data.image=KEY"
                )
            seen = words(entry.get(text)), name(entry.get(image)), labels(entry.get(label), separator)
            found.append(row(*seen, place, number - 1))
    return found
