"""The training rows of a finished run as an audit sees them; a system fills them in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Audited:
    """N training rows, in the order of ``weights.parquet``, with what speaks against their labels and their teacher."""

    texts: Mapping[str, Sequence[str]]
    """By column, what is shown of a row: texts as the student reads them, or made of what it reads."""
    given: Sequence[str]
    """The label that the row was trained with, of several the one to look at; empty where it has none."""
    teacher: Sequence[str]
    """The teacher's answer, which is the suggested label, as ``given`` would have it; empty where it says nothing."""
    student: Sequence[str]
    """The student's answer."""
    label_score: Tensor
    """``(N,)``, larger the less the label is to be trusted; NaN where nothing can be said."""
    teacher_score: Tensor
    """``(N,)``, the same of the teacher's output."""
    sure: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """How sure ``teacher`` and ``student`` are of their answers, to be shown behind them."""
    named: bool = True
    """Whether answers are names, so that one can be the label or not; False for numbers."""
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    """Further columns of the table ``(N,)``: probabilities, say."""
    notes: Sequence[str] = ()
    """Lines to print: what the scores are, and what they cannot know."""


def order(score: Tensor) -> list[int]:
    """Numbers of the rows by score, the least trusted first; those of which nothing can be said last."""
    values = score.tolist()
    return sorted(range(len(values)), key=lambda row: (values[row] != values[row], -values[row]))
