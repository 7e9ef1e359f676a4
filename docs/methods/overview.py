"""The table of all methods in README.md beside this file, from their pages: ``python docs/methods/overview.py``."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
FIRST = ("rwkd", "rwkd_plain", "rwkd_online", "ce", "kd")
BEGIN, END = "<!-- table: python docs/methods/overview.py -->\n", "<!-- end of table -->"
HEAD = "| method | in one line | learns by | meta split | per sample | K | accuracy | a step |\n" + "|---" * 8 + "|\n"


def row(name: str) -> str:
    """The line of one method: its page's title, what the page says in short, and its cost."""
    page = (HERE / f"{name}.md").read_text()
    (title,) = re.findall(rf"^# `{name}`: (.+)$", page, re.MULTILINE)
    short = r"Learns by: (.+?)\. Meta split: (.+?)\. Per sample: (.+?)\. Terms: (.+?)\. Accuracy: (.+)\.$"
    (columns,) = re.findall(rf"^\*\*In short\.\*\* {short}", page, re.MULTILINE)
    (cost,) = re.findall(r"^Cost per step: (\S+) × a `kd` step\.$", page, re.MULTILINE)
    return f"| [`{name}`]({name}.md) | {title} | {' | '.join(columns)} | {cost} |\n"


def overview() -> str:
    """README.md with the table as the pages have it; the controls come last."""
    names = [file.stem for file in sorted(HERE.glob("*.md")) if file.stem != "README"]
    control = {name: "(control)" in row(name) for name in names}
    names.sort(key=lambda name: (control[name], FIRST.index(name) if name in FIRST else len(FIRST), name))
    text = (HERE / "README.md").read_text()
    before, rest = text.split(BEGIN)
    return before + BEGIN + HEAD + "".join(map(row, names)) + END + rest.split(END)[1]


if __name__ == "__main__":
    (HERE / "README.md").write_text(overview())
