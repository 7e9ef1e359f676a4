"""``pictures.html`` of a run: the training rows at which what the teacher says of a modality is least trusted."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rwkd_lightning.report.page import document, section
from rwkd_lightning.run.outputs import differs
from rwkd_lightning.systems.multimodal.collection import NONE, Examples
from rwkd_lightning.systems.multimodal.fusion import PASSES, SUFFIX
from rwkd_lightning.systems.multimodal.pictures import Pictures

if TYPE_CHECKING:
    from PIL.Image import Image

PAGE = "pictures.html"
SHOWN, SIDE = 24, 112
"""Rows of each kind, and the pixels of a picture's longer side."""
TITLES = {"both": "Text and picture", "text": "The text alone", "image": "The picture alone"}
TERMS = {"both": "kd", "text": "kd_text", "image": "kd_image"}
STYLE = """<style>
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: .7rem; }
.cards figure { margin: 0; overflow-wrap: anywhere; font-size: .87rem; }
.cards img { background: #fff; border-radius: 4px; max-width: 100%; }
</style>"""


def page_of(
    rows: Examples,
    pictures: Pictures,
    answers: Mapping[str, Tensor],
    named: Callable[[int], str],
    columns: Mapping[str, Tensor],
    classes: Sequence[str],
    note: str,
) -> str:
    """The page.

    Args:
        rows: of the training, as they were seen.
        answers: the teacher's logits of each pass, ``(N, C)``, by its suffix.
        named: the label of a row in words.
        columns: of ``weights.parquet``.
        note: what a licence asks to be said.
    """
    sections = []
    for kind in PASSES:
        order, by = least_trusted(kind, columns)
        if order:
            said = answers[SUFFIX[kind]]
            cards = "".join(card(row, kind, rows, pictures, said[row], named(row), classes, columns) for row in order)
            about = f"<p class=quiet>{html.escape(by)}</p><div class=cards>{cards}</div>"
            sections.append(section(TITLES[kind], about, wide=True))
    if note:
        sections.append(f"<p class=quiet>{html.escape(note)}</p>")
    return document("Least trusted answers of the teacher", [STYLE, *sections])


def least_trusted(kind: str, columns: Mapping[str, Tensor]) -> tuple[list[int], str]:
    """Rows of the lowest weight on this modality's term, or where it has none of the teacher's largest loss."""
    term = TERMS[kind]
    weights = columns.get(f"w_{term}")
    if weights is not None and differs(weights[weights.isfinite()]):
        return first(-weights), f"by w_{term}, the lowest first"
    name = f"loss_teacher_ce{SUFFIX[kind]}"
    return first(columns[name]), f"by {name}, the largest first"


def first(values: Tensor) -> list[int]:
    """The rows of the largest values that are numbers."""
    known = values.isfinite().nonzero().flatten()
    return known[values[known].double().argsort(descending=True, stable=True)][:SHOWN].tolist()


def card(
    row: int,
    kind: str,
    rows: Examples,
    pictures: Pictures,
    said: Tensor,
    label: str,
    classes: Sequence[str],
    columns: Mapping[str, Tensor],
) -> str:
    """A row: its picture and text, its label, and what the teacher says."""
    place = rows.pictures[row]
    image = "" if place == NONE else f'<img alt="" src="{inline(pictures[place])}">'
    said_class = html.escape(classes[int(said.argmax())])
    numbers = [
        f"{name} {float(columns[name][row]):.3g}"
        for name in (f"w_{TERMS[kind]}", f"loss_teacher_ce{SUFFIX[kind]}")
        if name in columns
    ]
    swapped = [word for word in ("text", "image") if bool(columns.get(f"{word}_swapped", torch.zeros(row + 1))[row])]
    numbers += [f"{word} of another row" for word in swapped]
    return (
        f"<figure>{image}<div>{html.escape(rows.texts[row])}</div>"
        f"<div>label: {html.escape(label)}<br>teacher: {said_class}</div>"
        f"<div class=quiet>{html.escape(', '.join(numbers))}</div></figure>"
    )


def inline(picture: Image) -> str:
    """A small copy of a picture, to stand in the page itself."""
    small = picture.copy()
    small.thumbnail((SIDE, SIDE))
    held = io.BytesIO()
    small.save(held, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(held.getvalue()).decode()}"
