"""One HTML page of a student's topics: scores, a map, a card for each. It loads nothing and runs no script."""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkd_lightning.systems.topics.distances import hellinger, matches, plane
from rwkd_lightning.systems.topics.page_style import STYLE
from rwkd_lightning.systems.topics.topic_map import topic_map
from rwkd_lightning.utils.errors import UserError

LONGEST_EXAMPLE = 200
OPEN_UP_TO = 20
"""With more topics than this the cards' documents are folded away."""


@dataclass(frozen=True)
class TopicPage:
    """The content of the page: K topics over V words.

    Attributes:
        title: of the page.
        vocabulary: V words.
        beta_student: word probabilities ``(K, V)``; rows sum to 1.
        sizes: share of the corpus of each topic ``(K,)``.
        npmi: coherence of each topic ``(K,)``, NaN where it is undefined.
        examples: for each topic documents and the topic's share in each, the largest first.
        scores: rows of the table: name to (teacher's, student's); None where there is none.
        beta_teacher: word probabilities ``(L, V)`` of the teacher, or None.
        words: top words shown of a topic.
    """

    title: str
    vocabulary: Sequence[str]
    beta_student: NDArray[np.floating[Any]]
    sizes: Sequence[float]
    npmi: Sequence[float]
    examples: Sequence[Sequence[tuple[str, float]]]
    scores: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    beta_teacher: NDArray[np.floating[Any]] | None = None
    words: int = 10

    def __post_init__(self) -> None:
        k, v = self.beta_student.shape
        for name, found, wanted in (
            ("vocabulary", len(self.vocabulary), v),
            ("sizes", len(self.sizes), k),
            ("npmi", len(self.npmi), k),
            ("examples", len(self.examples), k),
        ):
            if found != wanted:
                raise UserError(f"page of {k} topics over {v} words: {name} has {found} entries instead of {wanted}")
        for who, beta in (("student", self.beta_student), ("teacher", self.beta_teacher)):
            if beta is None:
                continue
            if beta.shape[1] != v or not np.allclose(beta.sum(1), 1, atol=1e-3) or bool((beta < 0).any()):
                raise UserError(
                    f"page of {k} topics over {v} words: beta_{who} {beta.shape} is not a word distribution in each "
                    "row; give probabilities (softmax over the words) for the same vocabulary"
                )


def write_page(path: Path, page_of: TopicPage) -> None:
    """The page as a file, replaced in one move."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(page(page_of), encoding="utf-8", newline="\n")
    os.replace(part, path)


def page(p: TopicPage) -> str:
    """The page as HTML: the same for the same input, byte by byte."""
    points, kept = plane(hellinger(p.beta_student, p.beta_student))
    top = [top_of(row, p) for row in p.beta_student]
    matched = teachers_words(p)
    numbers = sorted(range(len(top)), key=lambda k: -p.sizes[k])
    cards = "\n".join(card(k, p, top[k], matched[k]) for k in numbers)
    captions = [clean(" ".join(w for w, _ in words[:2])) for words in top]
    hints = [
        clean(f"topic {k}, {percent(p.sizes[k])} of the corpus: " + ", ".join(w for w, _ in words))
        for k, words in enumerate(top)
    ]
    legend = MATCHED if p.beta_teacher is not None else ""
    svg = topic_map(points, p.sizes, captions, hints)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{text(p.title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{text(p.title)}</h1>
{table(p.scores, p.beta_teacher is not None)}
<h2>Map of the topics</h2>
<figure>
{svg}
<figcaption>Distances are Hellinger distances between the topics' word distributions, laid out by classical
multidimensional scaling; the two axes keep {text(percent(kept))} of the squared distances. Areas are the topics' shares
of the corpus. Two words where there is room; hover over a circle for all, click for its card.</figcaption>
</figure>
<h2>{len(top)} topics, the largest first</h2>
<p class="quiet">Bars and percentages are the probabilities of the words in the topic; the longest bar is the topic's
likeliest word. Size is the mean share in the documents, NPMI the coherence of the top words (-1 to 1).{legend}</p>
<main>
{cards}
</main>
</body>
</html>
"""


MATCHED = """ In <span class="teacher">orange</span> the teacher's topic that belongs to it: one to one, by the smallest
sum of Hellinger distances (0 equal, 1 no word in common); words that are among the top words of both are bold."""


def card(
    k: int, p: TopicPage, top: Sequence[tuple[str, float]], matched: tuple[int, float, Sequence[str]] | None
) -> str:
    """The card of topic ``k``."""
    largest = top[0][1]
    shared = set(matched[2]) if matched else set()
    words = "\n".join(
        f'<li><span dir="auto">{bold(w, w in shared)}</span>'
        f'<span class="bar" style="width:{100 * q / largest:.1f}%"></span>'
        f'<span class="share">{text(percent(q))}</span></li>'
        for w, q in top
    )
    match = "" if p.beta_teacher is None else '<p class="match quiet">no topic of the teacher is left for it</p>\n'
    if matched:
        number, distance, theirs = matched
        own = {w for w, _ in top}
        listed = ", ".join(bold(w, w in own) for w in theirs)
        match = (
            f'<p class="match teacher">teacher\'s topic {number}, distance {distance:.2f}: '
            f'<span dir="auto">{listed}</span></p>\n'
        )
    documents = "\n".join(
        f'<li><b>{text(percent(share))}</b> <span dir="auto">{text(shortened(document))}</span></li>'
        for document, share in p.examples[k]
    )
    unfolded = " open" if len(p.examples) <= OPEN_UP_TO else ""
    examples = (
        (
            f"<details{unfolded}><summary>most typical documents</summary>\n"
            f'<ol class="examples">\n{documents}\n</ol></details>\n'
        )
        if documents
        else ""
    )
    return (
        f'<article id="topic-{k}">\n<h3 class="student">Topic {k}</h3>\n'
        f'<div class="quiet">size {text(percent(p.sizes[k]))}, NPMI {number_or_dash(p.npmi[k])}</div>\n'
        f'<ol class="words">\n{words}\n</ol>\n{match}{examples}</article>'
    )


def table(scores: Mapping[str, tuple[Any, Any]], teacher: bool) -> str:
    """The figures of the run, teacher and student side by side; the teacher's column only where there is one."""
    if not scores:
        return ""
    column = '<th scope="col" class="teacher">teacher</th>' if teacher else ""
    rows = "\n".join(
        f'<tr><th scope="row">{text(name)}</th>{f"<td>{number_or_dash(t)}</td>" if teacher else ""}'
        f"<td>{number_or_dash(s)}</td></tr>"
        for name, (t, s) in scores.items()
    )
    return (
        f'<table>\n<thead><tr><td></td>{column}<th scope="col" class="student">student</th></tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody>\n</table>"
    )


def teachers_words(p: TopicPage) -> list[tuple[int, float, list[str]] | None]:
    """For each topic of the student the teacher's topic that is matched to it: its number, distance and top words."""
    if p.beta_teacher is None:
        return [None] * len(p.beta_student)
    distances = hellinger(p.beta_student, p.beta_teacher)
    words = [[w for w, _ in top_of(row, p)] for row in p.beta_teacher]
    return [None if t is None else (t, float(distances[k, t]), words[t]) for k, t in enumerate(matches(distances))]


def top_of(row: NDArray[np.floating[Any]], p: TopicPage) -> list[tuple[str, float]]:
    """The likeliest words of a topic and their probabilities, equal ones as in the vocabulary."""
    return [(p.vocabulary[i], float(row[i])) for i in np.argsort(-row, kind="stable")[: p.words]]


def bold(word: str, yes: bool) -> str:
    """A word, in bold or not."""
    return f"<b>{text(word)}</b>" if yes else text(word)


def percent(share: float) -> str:
    """A share as text."""
    return f"{100 * share:.1f}\u00a0%" if share >= 0.001 or share == 0 else "<\u00a00.1\u00a0%"


def number_or_dash(value: Any) -> str:
    """A number as a table shows it, a dash for none or NaN, anything else as it is."""
    if value is None or (isinstance(value, Real) and math.isnan(value)):
        return "–"
    if isinstance(value, Integral):
        return f"{int(value):,}"
    return (
        f"{float(value):{'.4f' if abs(float(value)) < 100 else '.1f'}}" if isinstance(value, Real) else text(str(value))
    )


def shortened(document: str) -> str:
    """A document on one line, cut at ``LONGEST_EXAMPLE`` characters."""
    line = " ".join(document.split())
    return line if len(line) <= LONGEST_EXAMPLE else line[:LONGEST_EXAMPLE].rstrip() + " …"


def text(value: str) -> str:
    """As HTML."""
    return escape(clean(value))


def clean(value: str) -> str:
    """Without control characters and halves of surrogate pairs, which no HTML file may hold."""
    return "".join(" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in value)
