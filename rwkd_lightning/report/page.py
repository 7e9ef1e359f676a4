"""``report.html`` of a run: its table, curves, weights against difficulty, and the rows that are least trusted."""

from __future__ import annotations

import csv
import html
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from rwkd_lightning.report.charts import Points, chart, cloud
from rwkd_lightning.report.style import STYLE
from rwkd_lightning.run.result_table import costs, scored, title_of

FILE = "report.html"
POINTS = 1500
"""Rows of a cloud, evenly taken; more would only darken it."""
WORST = 20
Words = Callable[[Sequence[int]], list[dict[str, str]]]
"""Numbers of training rows to what a reader needs of each, by name."""


def write(
    folder: Path, metrics: Mapping[str, Any], terms: Sequence[str], columns: Mapping[str, Tensor], words: Words
) -> None:
    """Write the page of a run into its folder, in one move.

    Args:
        metrics: as in ``metrics.json``.
        terms: the names of the loss terms.
        columns: of ``weights.parquet``, ``(N,)`` each.
        words: of training rows.
    """
    part = folder / f".{FILE}.part"
    part.write_text(page(metrics, logged(folder / "log" / "metrics.csv"), terms, columns, words), encoding="utf-8")
    os.replace(part, folder / FILE)


def logged(path: Path) -> list[dict[str, float]]:
    """The rows of ``log/metrics.csv``, without empty cells."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]


def page(
    metrics: Mapping[str, Any],
    log: Sequence[Mapping[str, float]],
    terms: Sequence[str],
    columns: Mapping[str, Tensor],
    words: Words,
) -> str:
    """The page; arguments as of `write`, ``log`` as of `logged`."""
    held_out = sorted({name for row in log for name in row if name.startswith("meta/")})
    sections = [
        section("Result", result(metrics)),
        section("Loss of each term", chart({term: curve(log, f"loss/{term}") for term in terms}, "step", "loss")),
        section(
            "Weight of each term",
            chart(
                {term: curve(log, f"weight/{term}") for term in terms},
                "step",
                "weight",
                {term: curve(log, f"weight_spread/{term}") for term in terms},
            )
            + "<p class=quiet>mean of the batch, and one standard deviation to each side</p>",
        ),
        section("Weight against difficulty", clouds(terms, columns)),
    ]
    if held_out:
        names = {name.removeprefix("meta/"): curve(log, name) for name in held_out}
        sections.append(section("Meta split, by epoch", chart(names, "step", "score")))
    if worst := least_trusted(terms, columns, words):
        sections.append(section("Rows that are least trusted", worst, wide=True))
    return document(title_of(metrics), sections)


def document(title: str, sections: Sequence[str]) -> str:
    """A page that needs nothing beside itself."""
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{STYLE}</style>
<h1>{html.escape(title)}</h1>
<main>{"".join(sections)}</main>
</html>
"""


def section(title: str, content: str, wide: bool = False) -> str:
    """A card of the page."""
    return f"<section{' class=wide' if wide else ''}><h2>{html.escape(title)}</h2>{content}</section>\n"


def result(metrics: Mapping[str, Any]) -> str:
    """The table of the run."""
    rows = [("", "teacher", "student"), *scored(metrics), *costs(metrics["cost"])]
    cells = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    found = "".join(
        f"<p class=quiet>area under the ROC curve for {html.escape(name)}: "
        + ", ".join(f"{html.escape(score)} {value:.3f}" for score, value in areas.items())
        + "</p>"
        for name, areas in metrics.get("corruption", {}).items()
    )
    stages = ", ".join(
        f"{stage} {seconds:.0f} s" for stage, seconds in metrics["cost"].get("stage_seconds", {}).items()
    )
    spent = f"<p class=quiet>where the time went: {html.escape(stages)}</p>" if stages else ""
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>{found}{spent}"


def curve(log: Sequence[Mapping[str, float]], name: str) -> Points:
    """Step and value of what was logged under a name."""
    return [(row["step"], row[name]) for row in log if name in row]


def clouds(terms: Sequence[str], columns: Mapping[str, Tensor]) -> str:
    """The weights of the rows against their loss by the first term, all at the last visit."""
    losses = columns[f"loss_{terms[0]}"].tolist()
    every = max(1, len(losses) // POINTS)
    points = {term: list(zip(losses[::every], columns[f"w_{term}"].tolist()[::every], strict=True)) for term in terms}
    return cloud(points, f"loss {terms[0]}", "weight") + "<p class=quiet>a point for a row, at its last visit</p>"


def least_trusted(terms: Sequence[str], columns: Mapping[str, Tensor], words: Words) -> str:
    """The rows with the largest loss by the first term, the teacher's own where it is known."""
    name = next((name for name in columns if name.startswith("loss_teacher_")), f"loss_{terms[0]}")
    losses = columns[name].double()
    known = losses.isfinite().nonzero().flatten()
    order = known[losses[known].argsort(descending=True, stable=True)][:WORST].tolist()
    told = words(order)
    if not told:
        return ""
    shown = [name, *(f"{kind}_{term}" for kind in ("w", "loss") for term in terms)]
    shown = [column for column in dict.fromkeys(shown) if column in columns]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in told[0])
    head += "".join(f"<th class=number>{html.escape(column)}</th>" for column in shown)
    rows = [
        "".join(f"<td>{html.escape(text)}</td>" for text in one.values())
        + "".join(f"<td class=number>{float(columns[column][row]):.3g}</td>" for column in shown)
        for row, one in zip(order, told, strict=True)
    ]
    by = f"<p class=quiet>by {html.escape(name)}; python -m rwkd_lightning.audit RUN ranks all rows</p>"
    return f"{by}<div class=rows><table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table></div>"
