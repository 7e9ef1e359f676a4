"""The layout of MM-IMDB (Arevalo et al., ICLR 2017 workshop): ``split.json`` and ``dataset/ID.json`` beside
``dataset/ID.jpeg``; a film has several genres.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rwkd_lightning.systems.multimodal.collection import TEST, TRAIN, VALIDATION
from rwkd_lightning.systems.multimodal.formats.raw import Row, row
from rwkd_lightning.systems.multimodal.formats.values import words
from rwkd_lightning.utils.errors import UserError

NAMES = {TRAIN: "train", VALIDATION: "dev", TEST: "test"}
RARE = frozenset({"News", "Adult", "Talk-Show", "Reality-TV"})
"""Genres whose films are left out, as is usual: 23 are left."""


def fits(folder: Path) -> bool:
    """Whether the folder has this layout."""
    return (folder / "split.json").is_file()


def read(folder: Path) -> dict[str, list[Row]]:
    """The three splits; a film's text is the longest of its plots.

    Raises:
        UserError: for a file that is missing or is not what it should be.
    """
    split = parsed(folder / "split.json")
    if not isinstance(split, dict) or set(NAMES.values()) - set(split):
        raise UserError(f"{folder / 'split.json'} has not the lists train, dev and test; give MM-IMDB's own")
    return {name: films(folder, split[key], f"split.json, {key}") for name, key in NAMES.items()}


def films(folder: Path, ids: Any, where: str) -> list[Row]:
    """The films of one split."""
    found = []
    for number, film in enumerate(ids):
        place = f"{where}, number {number + 1} ({film})"
        about = next((f for d in ("dataset", "labels") if (f := folder / d / f"{film}.json").is_file()), None)
        if about is None:
            raise UserError(f"{place}: there is no {folder / 'dataset' / f'{film}.json'}; take it from split.json")
        entry = parsed(about)
        genres = entry.get("genres") if isinstance(entry, dict) else None
        if not isinstance(genres, list):
            raise UserError(f"{place}: {about} has no list of genres; give MM-IMDB's own")
        if RARE.isdisjoint(genres):
            poster = next(
                (
                    str(Path(d) / f"{film}{end}")
                    for d in ("dataset", "images")
                    for end in (".jpeg", ".jpg", ".png")
                    if (folder / d / f"{film}{end}").is_file()
                ),
                None,
            )
            found.append(row(words(entry.get("plot")), poster, [str(genre) for genre in genres], place, number))
    return found


def parsed(file: Path) -> Any:
    """A JSON file."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read as JSON ({error}); fetch it again") from error
