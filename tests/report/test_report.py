"""``report.html`` of a run: what it draws is what was logged."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from rwkd_lightning.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, chart, cloud, ticks
from rwkd_lightning.report.page import logged, page, write

METRICS = {
    "task": "a<b",
    "weighting": "rwkd",
    "seed": 0,
    "student": {"test": {"accuracy": 0.5}},
    "teacher": {"test": {"accuracy": None}},
    "cost": {
        "teacher_parameters": None,
        "student_parameters": 2_000_000,
        "student_bytes": 8_000_000,
        "train_seconds": 3.0,
        "teacher_seconds": None,
    },
    "corruption": {"label_flipped": {"weight": 0.75}},
}


class Text(HTMLParser):
    """The text of a page, and its tags."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_points_are_where_they_belong() -> None:
    """Prevents: a curve upside down, a band that is not around it, a NaN that breaks the picture."""
    drawn = chart({"x": [(0, 1.0), (1, math.nan), (2, 3.0)], "none": [(0, math.nan)]}, "step", "loss")
    (line,) = re.findall(r'<polyline class="s0" points="([^"]*)"', drawn)
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in line.split())
    assert LEFT < x0 < x1 < WIDTH - RIGHT and TOP < y1 < y0 < HEIGHT - BOTTOM
    room = 0.04 / 1.08
    assert x0 == pytest.approx(LEFT + room * (WIDTH - LEFT - RIGHT), abs=0.1)
    assert y1 == pytest.approx(TOP + room * (HEIGHT - TOP - BOTTOM), abs=0.1)
    assert ">none<" not in drawn and ">x<" in drawn
    banded = chart({"x": [(0, 1.0), (1, 1.0)]}, "step", "w", {"x": [(0, 0.5), (1, 0.25)]})
    (band,) = re.findall(r'<polygon class="s0" points="([^"]*)"', banded)
    heights = [float(point.split(",")[1]) for point in band.split()]
    assert heights[3] - heights[0] == pytest.approx(2 * (heights[2] - heights[1]), abs=0.3)
    assert cloud({"x": [(1, 1), (2, math.nan)], "y": []}, "a", "b").count("M") == 1
    assert "nothing to draw" in chart({}, "a", "b") and "nothing to draw" in cloud({}, "a", "b")


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.02, 0.52), (3, 3000), (1e-6, 2e-6), (-5, 5)])
def test_ticks_are_round_and_few(low: float, high: float) -> None:
    """Prevents: an axis without numbers, or with so many that none can be read."""
    found = ticks(low, high)
    assert 2 <= len(found) <= 8 and all(low <= tick <= high for tick in found)


def test_the_page(tmp_path: Path) -> None:
    """Prevents: markup of a text that is run, the rows of other numbers, a column that is not there."""
    (tmp_path / "log").mkdir()
    (tmp_path / "log/metrics.csv").write_text(
        "step,epoch,loss/ce,loss/kd,weight/ce,weight_spread/ce,meta/accuracy\n"
        "1,0,2.0,1.0,0.5,0.0,\n2,0,1.0,0.5,0.6,0.1,\n2,0,,,,,0.5\n4,1,,,,,0.75\n"
    )
    columns = {
        "w_ce": torch.tensor([0.1, 0.2, 0.3, math.nan]),
        "w_kd": torch.tensor([0.9, 0.8, 0.7, 1.0]),
        "loss_ce": torch.tensor([1.0, 2.0, 0.5, math.nan]),
        "loss_kd": torch.rand(4),
        "loss_teacher_ce": torch.tensor([0.5, 3.0, 1.0, math.nan]),
    }
    asked: list[list[int]] = []

    def words(rows: list[int]) -> list[dict[str, str]]:
        asked.append(list(rows))
        return [{"text": f"<script>alert({row})</script>", "label": "x"} for row in rows]

    write(tmp_path, METRICS, ["ce", "kd"], columns, words)  # type: ignore[arg-type]
    found = Text((tmp_path / "report.html").read_text())
    assert asked == [[1, 2, 0]] and "script" not in found.tags and not list(tmp_path.glob(".*.part"))
    text = " ".join(found.texts)
    for said in (
        "task=a<b",
        "<script>alert(1)</script>",
        "undefined",
        "2.00 M",
        "for label_flipped: weight 0.750",
        "by loss_teacher_ce",
    ):
        assert said in text, said
    assert "Meta split, by epoch" in text and [row["step"] for row in logged(tmp_path / "log/metrics.csv")] == [
        1,
        2,
        2,
        4,
    ]
    bare = page(METRICS, [], ["ce"], {"w_ce": torch.ones(1), "loss_ce": torch.ones(1)}, lambda rows: [])
    assert "least trusted" not in bare and "nothing to draw" in bare
