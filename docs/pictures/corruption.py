"""The picture of the README, from the table in docs/results.md: ``python docs/pictures/corruption.py``."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
SHOWN = {
    "kd": "labels and teacher, half and half",
    "global": "one learned weight",
    "rwkd": "RW-KD",
    "oracle": "knows the truth",
}
LEFT, TOP, LINE, WIDE = 250, 46, 40, 420
LOW, HIGH = 0.64, 0.75


def rows() -> dict[str, list[float]]:
    """Test accuracies of the five seeds, by method."""
    text = (HERE.parent / "results.md").read_text(encoding="utf-8")
    table = text.split("| test accuracy |")[1].split("\n\n")[0]
    found = re.findall(r"^\| \*{0,2}`(\w+)`[^|]*\| ((?:0\.\d{4} ?){5}) \|", table, re.MULTILINE)
    return {name: [float(x) for x in values.split()] for name, values in found}


def place(accuracy: float) -> float:
    """Pixels from the left."""
    return LEFT + WIDE * (accuracy - LOW) / (HIGH - LOW)


def picture() -> str:
    """A dot a seed, a bar at the mean."""
    parts = []
    for tick in (0.65, 0.67, 0.69, 0.71, 0.73):
        x = place(tick)
        parts.append(
            f'<line x1="{x:.1f}" y1="{TOP - 12}" x2="{x:.1f}" y2="{TOP + LINE * len(SHOWN) - 12}" class="grid"/>'
        )
        parts.append(f'<text x="{x:.1f}" y="{TOP - 18}" class="tick">{tick:.2f}</text>')
    measured = rows()
    for number, (name, words) in enumerate(SHOWN.items()):
        y, values = TOP + LINE * number + 8, measured[name]
        mean = place(sum(values) / len(values))
        kind = "own" if name == "rwkd" else "other"
        parts.append(f'<text x="{LEFT - 18}" y="{y + 4}" class="name">{words} ({name})</text>')
        parts.append(f'<line x1="{mean:.1f}" y1="{y - 13}" x2="{mean:.1f}" y2="{y + 13}" class="mean {kind}"/>')
        parts += [f'<circle cx="{place(value):.1f}" cy="{y}" r="5" class="{kind}"/>' for value in values]
    height = TOP + LINE * len(SHOWN) + 22
    words = "test accuracy, five seeds; 40 % of labels and of the teacher's answers wrong"
    box = f'viewBox="0 0 {LEFT + WIDE + 20} {height}"'
    return f"""<svg xmlns="http://www.w3.org/2000/svg" {box} role="img" aria-label="{words}">
<style>
text {{ font: 13px sans-serif; fill: #57606a; }}
.name {{ text-anchor: end; }} .tick {{ text-anchor: middle; font-size: 11px; }}
.grid {{ stroke: #8c959f; stroke-opacity: .3; }} .mean {{ stroke-width: 3; }}
circle.other {{ fill: #8c959f; fill-opacity: .7; }} line.other {{ stroke: #8c959f; }}
circle.own {{ fill: #0969da; fill-opacity: .7; }} line.own {{ stroke: #0969da; }}
</style>
{chr(10).join(parts)}
<text x="20" y="{height - 8}" class="note">{words}</text>
</svg>
"""


if __name__ == "__main__":
    (HERE / "corruption.svg").write_text(picture(), encoding="utf-8")
