"""The reader for what lies in a directory."""

from __future__ import annotations

from collections.abc import Sequence

from rwkd_lightning.systems.multimodal.collection import TEST, VALIDATION, Collection
from rwkd_lightning.systems.multimodal.formats import hateful_memes, mm_imdb, snli_ve, table
from rwkd_lightning.systems.multimodal.formats.raw import assemble
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.paths import place

LAYOUTS = (
    "train.jsonl with img, text and label (Hateful Memes), split.json (MM-IMDB), snli_ve_train.jsonl (SNLI-VE), or "
    "train.csv, .tsv or .parquet with the columns data.text, data.image and data.label"
)


def load_pairs(
    path: str | None,
    text: str = "text",
    image: str = "img",
    label: str = "label",
    separator: str | None = None,
    classes: Sequence[str] | None = None,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.1,
    split_seed: int = 0,
) -> Collection:
    """Read a directory.

    Args:
        path: the directory.
        text, image, label: keys or columns of a row, where the layout has no names of its own.
        separator: of several labels in one row; None: each row has one, or a list of them.
        classes: their names in the order of the outputs; None: all that are there.
        validation_fraction, test_fraction: of ``train``, for a split that there is not.
        split_seed: of the cuts.

    Raises:
        UserError: for a directory of another layout, and whatever is wrong in a file of it.
    """
    if path is None:
        raise UserError(f"task=pairs reads a directory of your own; give data.path=DIR, with {LAYOUTS}")
    folder = place(path, "data.path")
    if not folder.is_dir():
        raise UserError(f"data.path={path!r} is not a directory; give one with {LAYOUTS}")
    if mm_imdb.fits(folder):
        splits = mm_imdb.read(folder)
    elif snli_ve.fits(folder):
        splits = snli_ve.read(folder)
    elif hateful_memes.fits(folder):
        splits = hateful_memes.read(folder, text, image, label, separator)
    elif table.fits(folder):
        splits = table.read(folder, text, image, label, separator)
    elif list(folder.glob("v2_OpenEnded*")):
        raise UserError(
            f"data.path={path!r} holds VQA2, whose answers are shares of ten people's, and these are not read; give a "
            "data set with labels"
        )
    else:
        there = ", ".join(sorted(file.name for file in folder.iterdir())[:6]) or "nothing"
        raise UserError(f"data.path={path!r} holds {there}; give a directory with {LAYOUTS}")
    several = any(isinstance(one.label, list) for rows in splits.values() for one in rows)
    return assemble(
        folder, splits, several, classes, {VALIDATION: validation_fraction, TEST: test_fraction}, split_seed
    )
