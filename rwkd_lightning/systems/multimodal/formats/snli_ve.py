"""The layout of SNLI-VE (Xie et al. 2019, arXiv 1901.06706): does a picture entail a sentence? The caption that the
sentence was written about, ``sentence1``, is not read.
"""

from __future__ import annotations

from pathlib import Path

from rwkd_lightning.systems.multimodal.collection import TEST, TRAIN, VALIDATION
from rwkd_lightning.systems.multimodal.formats.hateful_memes import read_lines
from rwkd_lightning.systems.multimodal.formats.raw import Row
from rwkd_lightning.utils.errors import UserError

NAMES = {TRAIN: "train", VALIDATION: "dev", TEST: "test"}
PICTURES = "flickr30k_images"


def fits(folder: Path) -> bool:
    """Whether the folder has this layout."""
    return (folder / "snli_ve_train.jsonl").is_file()


def read(folder: Path) -> dict[str, list[Row]]:
    """The three splits; rows whose annotators did not agree have the label ``-`` and are left out.

    Raises:
        UserError: for a missing file or a line that is no row.
    """
    found = {}
    for split, name in NAMES.items():
        file = folder / f"snli_ve_{name}.jsonl"
        if not file.is_file():
            raise UserError(f"data.path={str(folder)!r} has no {file.name}; give all three files of SNLI-VE")
        rows = read_lines(file, "sentence2", "Flickr30K_ID", "gold_label", None)
        found[split] = [
            one._replace(image=f"{PICTURES}/{one.image}.jpg") for one in rows if one.label not in (None, "-")
        ]
    return found
