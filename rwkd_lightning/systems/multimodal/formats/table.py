"""A table of one's own, a row with a text, the path of a picture and a label: CSV, TSV or Parquet."""

from __future__ import annotations

from pathlib import Path

from rwkd_lightning.data.table_file import read_table
from rwkd_lightning.systems.multimodal.collection import TEST, TRAIN, VALIDATION
from rwkd_lightning.systems.multimodal.formats.raw import Row, row
from rwkd_lightning.systems.multimodal.formats.values import labels, name, words

NAMES = {TRAIN: ("train",), VALIDATION: ("validation", "dev", "valid"), TEST: ("test",)}
ENDS = (".csv", ".tsv", ".parquet")


def file_of(folder: Path, split: str) -> Path | None:
    """The split's file, if there is one."""
    return next((f for stem in NAMES[split] for end in ENDS if (f := folder / f"{stem}{end}").is_file()), None)


def fits(folder: Path) -> bool:
    """Whether the folder has this layout."""
    return file_of(folder, TRAIN) is not None


def read(folder: Path, text: str, image: str, label: str, separator: str | None = None) -> dict[str, list[Row]]:
    """The splits that are there.

    Args:
        text, image, label: columns.
        separator: of the labels of one row; None: a row has one.

    Raises:
        UserError: as `read_table`.
    """
    found = {}
    for split in NAMES:
        file = file_of(folder, split)
        if file is not None:
            table = read_table(str(file), [text, image, label], "data.path")
            cells = zip(*(table.columns[column] for column in (text, image, label)), strict=True)
            found[split] = [
                row(words(one), name(two), labels(three, separator), table.at(number), number)
                for number, (one, two, three) in enumerate(cells)
            ]
    return found
