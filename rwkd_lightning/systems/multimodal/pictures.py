"""Pictures by number: drawn, or files that are decoded with care."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rwkd_lightning.cache.store import digest
from rwkd_lightning.cli.kinds import first_line
from rwkd_lightning.utils.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

PIXELS = 80_000_000
"""Of a picture at most; a larger one is refused before it is decoded."""


class Pictures(Protocol):
    """Pictures by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Image:
        """As RGB.

        Raises:
            UserError: for a file that is no picture, naming it.
        """

    def fingerprint(self) -> str:
        """Changes with what is seen."""


class Files:
    """Pictures in files below one folder.

    Args:
        folder: they may not lie outside of it.
        names: paths below it.
        rows: for messages, where each name stands: ``train.jsonl, line 3``.

    Raises:
        UserError: for a name that leads out of the folder, or to no file.
    """

    def __init__(self, folder: Path, names: Sequence[str], rows: Sequence[str]) -> None:
        self.folder, self.names, self.rows = folder, list(names), list(rows)
        root = folder.resolve()
        self.paths = []
        for name, row in zip(self.names, self.rows, strict=True):
            path = folder / name
            if "\0" in name or not path.resolve().is_relative_to(root):
                raise UserError(f"{row}: the picture {name!r} lies outside of {folder}; give a path below it")
            if not path.is_file():
                raise UserError(f"{row}: there is no picture {path}; correct its name, or leave it empty for none")
            self.paths.append(path)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Image:
        return opened(self.paths[number], self.rows[number])

    def fingerprint(self) -> str:
        """SHA-256 of all files' bytes."""
        return digest([hashlib.sha256(path.read_bytes()).hexdigest() for path in self.paths])


def opened(path: Path, row: str) -> Image:
    """A picture as RGB: upright as its EXIF entry says, on white where it is transparent, the first of several frames.

    Raises:
        UserError: if it is none, is cut off, or has too many pixels.
    """
    pil = pillow()
    try:
        with pil.open(path) as picture:
            if picture.width * picture.height > PIXELS:
                raise UserError(
                    f"{row}: the picture {path} has {picture.width} x {picture.height} pixels, and {PIXELS:,} can be "
                    "read; make it smaller"
                )
            return on_white(picture)
    except UserError:
        raise
    except Exception as error:  # Pillow's plugins raise what they like: OSError, SyntaxError, struct.error
        unknown = type(error).__name__ == "UnidentifiedImageError"
        reason = "it is no picture" if unknown else first_line(error)
        raise UserError(
            f"{row}: the picture {path} cannot be read ({reason}); replace it, or leave its name empty for none"
        ) from error


def on_white(picture: Image) -> Image:
    """A picture as RGB, upright, on white."""
    from PIL import Image as pil
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(picture)
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        layer = upright.convert("RGBA")
        return pil.alpha_composite(pil.new("RGBA", layer.size, "white"), layer).convert("RGB")
    if upright.mode.startswith("I"):  # 16 bits of grey, which RGB would cut off at 255
        return upright.convert("I").point(lambda x: x * (1 / 256)).convert("L").convert("RGB")
    return upright.convert("RGB")


def pillow() -> Any:
    """``PIL.Image``.

    Raises:
        UserError: where Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise UserError('pictures need Pillow: pip install "rwkd_lightning[multimodal]"') from error
    return Image
