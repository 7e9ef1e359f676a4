"""The audit as one page that needs nothing beside itself: a table to search, sort and filter."""

from __future__ import annotations

import html as escaping
import json
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from rwkd_lightning.audit.rows import Audited, order
from rwkd_lightning.audit.style import SCRIPT, STYLE

ROWS = 1000
"""The least trusted rows of each kind that the page holds; the tables beside it have all."""


def html(title: str, table: Mapping[str, Sequence[Any]], rows: Audited, history: Mapping[str, Sequence[Tensor]]) -> str:
    """The page.

    Args:
        title: of the run.
        table: the columns of ``weights.parquet``.
        history: by term, its weights ``(N,)`` in each epoch.
    """
    shown: dict[int, None] = {}
    ranks = {}
    for kind, score in (("label", rows.label_score), ("teacher", rows.teacher_score)):
        ordered = [row for row in order(score) if score[row] == score[row]]
        ranks[kind] = {row: place for place, row in enumerate(ordered, 1)}
        shown |= dict.fromkeys(ordered[:ROWS])
    flags = [name for name in ("label_flipped", "teacher_corrupted") if any(table.get(name, ()))]
    found = [
        {
            "idx": table["idx"][row],
            "text": [texts[row] for texts in rows.texts.values()],
            "label": rows.given[row],
            "teacher": rows.teacher[row],
            "student": rows.student[row],
            "sure": {who: texts[row] for who, texts in rows.sure.items()},
            "ranks": {kind: places.get(row) for kind, places in ranks.items()},
            "weights": {term: [digits(one[row]) for one in epochs] for term, epochs in history.items() if epochs},
            "flags": [name for name in flags if table[name][row]],
        }
        for row in shown
    ]
    content = {"rows": found, "columns": list(rows.texts), "named": rows.named}
    data = json.dumps(content, ensure_ascii=False, allow_nan=False)
    data = data.replace("<", "\\u003c")  # a text may hold the end of the script
    notes = "".join(f"<p class=quiet>{escaping.escape(note)}</p>" for note in rows.notes)
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Audit: {escaping.escape(title)}</title>
<style>{STYLE}</style>
<h1>Which rows are wrong?</h1>
<p>{escaping.escape(title)}, {len(rows.given):,} training rows</p>
{notes}
<form role="search">
<fieldset><legend>least trusted first</legend>
<label><input type="radio" name="kind" value="label" checked> label</label>
<label><input type="radio" name="kind" value="teacher"> teacher</label></fieldset>
<label>search <input type="search" name="find" placeholder="words, label, idx" autocomplete="off"></label>
<label>label <select name="given"><option value="">all</option></select></label>
<label><input type="checkbox" name="others"> only where student and teacher agree against the label</label>
</form>
<p id="count" class="quiet" aria-live="polite"></p>
<table><thead><tr></tr></thead><tbody></tbody></table>
<p><button type="button" id="more">more rows</button></p>
<script type="application/json" id="data">{data}</script>
<script>{SCRIPT}</script>
</html>
"""


def digits(value: Tensor) -> float | None:
    """A weight with three digits; None where there is none."""
    plain = float(value)
    return None if plain != plain else round(plain, 3)
