"""``summaries.html`` of a run: training summaries beside what the student writes, most distrusted first."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from rwkd_lightning.report.page import document, section
from rwkd_lightning.run.outputs import differs

PAGE = "summaries.html"
SHOWN, CUT = 30, 500
"""Rows of a section, and characters of a document."""
ROLES = {"label": ("References", "loss_ce"), "teacher": ("Answers of the teacher", "loss_teacher_ce")}
"""Titles, and the column that orders where no weight does."""
STYLE = """<style>
.pairs { display: grid; gap: 1rem; }
.pairs article { border-top: 1px solid color-mix(in srgb, currentColor 20%, transparent); padding-top: .6rem; }
.pairs dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem .8rem; margin: .3rem 0; }
.pairs dt { opacity: .7; } .pairs dd { margin: 0; overflow-wrap: anywhere; }
</style>"""


def orders(terms: Mapping[str, str], columns: Mapping[str, Tensor]) -> dict[str, tuple[list[int], str, str]]:
    """For each section the rows in their order, the column that orders them, and how.

    Args:
        terms: the first term of each role that has one.
        columns: of ``weights.parquet``.
    """
    found = {}
    for role, (title, loss) in ROLES.items():
        weight = f"w_{terms[role]}" if role in terms else ""
        if weight in columns and differs(columns[weight]):
            found[title] = first(-columns[weight]), weight, "the lowest first"
        elif loss in columns:
            found[title] = first(columns[loss]), loss, "the largest first"
    return {title: order for title, order in found.items() if order[0]}


def first(values: Tensor) -> list[int]:
    """The rows of the largest values that are numbers."""
    known = values.isfinite().nonzero().flatten()
    return known[values[known].double().argsort(descending=True, stable=True)][:SHOWN].tolist()


def page_of(
    sections: Mapping[str, tuple[Sequence[int], str, str]],
    row: Callable[[int], Mapping[str, str]],
    columns: Mapping[str, Tensor],
) -> str:
    """The page.

    Args:
        sections: of `orders`.
        row: the texts of a training row by what they are, its ``document`` among them.
        columns: of ``weights.parquet``.
    """
    made = []
    for title, (places, by, how) in sections.items():
        cards = "".join(card(row(place), {by: float(columns[by][place])}, flags(columns, place)) for place in places)
        about = f"<p class=quiet>by {html.escape(by)}, {how}</p><div class=pairs>{cards}</div>"
        made.append(section(title, about, wide=True))
    return document("Least trusted summaries", [STYLE, *made])


def card(texts: Mapping[str, str], numbers: Mapping[str, float], marks: Sequence[str]) -> str:
    """A row: its summaries under each other, then the document."""
    known = [f"{name} {value:.3g}" for name, value in numbers.items()] + list(marks)
    lines = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>"
        for name, text in texts.items()
        if name != "document"
    )
    whole = texts["document"]
    shown = whole if len(whole) <= CUT else f"{whole[:CUT]}..."
    return (
        f"<article><dl>{lines}</dl><div class=quiet>{html.escape(shown)}</div>"
        f"<div class=quiet>{html.escape(', '.join(known))}</div></article>"
    )


def flags(columns: Mapping[str, Tensor], place: int) -> list[str]:
    """What was corrupted of a row on purpose."""
    said = {"label_flipped": "another document's summary", "teacher_corrupted": "the teacher read another document"}
    return [words for name, words in said.items() if name in columns and bool(columns[name][place])]
