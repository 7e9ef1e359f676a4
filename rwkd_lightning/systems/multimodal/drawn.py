"""Pictures drawn from a font of colour layers."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rwkd_lightning.cache.store import digest, file_digest
from rwkd_lightning.systems.multimodal.pictures import pillow

if TYPE_CHECKING:
    from PIL.Image import Image

SIZE, FRAME = 72, 96
"""Pixels of a glyph and of the picture around it."""
UNASSIGNED = "\U0010ffff"
"""Drawn as the font draws what it does not have."""


class Drawn:
    """Each text drawn in the middle of a white square.

    Args:
        font: a file with colour layers (COLRv0), which FreeType draws.
        texts: one for each picture.
    """

    def __init__(self, font: Path, texts: Sequence[str]) -> None:
        self.font, self.texts = font, list(texts)
        pillow()

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, number: int) -> Image:
        return self.draw(self.texts[number])

    def draw(self, text: str) -> Image:
        """The picture of a text."""
        from PIL import Image, ImageDraw

        picture = Image.new("RGB", (FRAME, FRAME), "white")
        draw = ImageDraw.Draw(picture)
        draw.text((FRAME / 2, FRAME / 2), text, font=face(self.font), embedded_color=True, anchor="mm", fill="black")
        return picture

    def fits(self, number: int) -> bool:
        """Whether the font has the text as one glyph: neither blank, wider than the square, nor the one for others."""
        left, top, right, bottom = face(self.font).getbbox(self.texts[number], anchor="mm")
        if right - left > FRAME or bottom <= top:
            return False
        seen = self[number].tobytes()
        return seen not in (self.draw(" ").tobytes(), self.draw(UNASSIGNED).tobytes())

    def fingerprint(self) -> str:
        """Of the font, of what is drawn and of Pillow, whose versions draw differently."""
        import PIL

        return digest([file_digest(self.font), self.texts, SIZE, FRAME, PIL.__version__])


@functools.cache
def face(font: Path) -> Any:
    """The font at the size of a glyph."""
    from PIL import ImageFont

    return ImageFont.truetype(str(font), SIZE)
