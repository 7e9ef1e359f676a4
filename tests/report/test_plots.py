"""The pictures of several settings: what they draw is what the runs say."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from rwkd_lightning.report.charts import NAMES, STRIPS, Strip, strips
from rwkd_lightning.report.plots import over_training, separation, tenths
from rwkd_lightning.report.runs import Finished, Setting


def run(folder: Path, seed: int, weight: float, area: float) -> Finished:
    """A run whose weight of ``ce`` is ``weight`` at step 1 and twice that at step 2."""
    (folder / "log").mkdir(parents=True)
    (folder / "log/metrics.csv").write_text(
        f"step,epoch,weight/ce,weight_spread/ce,loss/ce\n1,0,{weight},0.1,1.0\n2,0,{2 * weight},0.3,1.0\n"
    )
    metrics = {"corruption": {"label_flipped": {"weight": area, "loss_ce": 0.9, "influence": None}}}
    return Finished(folder, {"terms": ["ce"]}, seed, 0.5, "accuracy", {"test": 0.5}, 1.0, metrics)


def test_strips_are_where_they_belong() -> None:
    """Prevents: a bar that is not around its mean, a line of another axis, a name with markup in it."""
    rows = [Strip("<a>", [1.0, 3.0], 2.0, 1.5, 2.5), Strip("b", [], math.nan, 0, 0), Strip("c" * 60, [], 3.0, 3.0, 3.0)]
    drawn = strips(rows, "score", 2.0)
    bars = re.findall(r'<line class="s1 bar" x1="([\d.]+)" x2="([\d.]+)"', drawn)
    assert len(bars) == 4  # of two rows
    (low, high), (middle, same), (third, _), _ = (tuple(map(float, bar)) for bar in bars)
    assert NAMES < low < middle == same < high < third < STRIPS and middle == pytest.approx((low + high) / 2, abs=0.1)
    (line,) = re.findall(r'<line class=compared x1="([\d.]+)"', drawn)
    first, last = (float(x) for x in re.findall(r"M([\d.]+),", drawn))
    assert float(line) == middle == pytest.approx((first + last) / 2, abs=0.1) and last == third
    assert "&lt;a&gt;" in drawn and "<a>" not in drawn and f"{'c' * 51}…" in drawn
    assert "nothing to draw" in strips([rows[1]], "score")


def test_weights_over_the_training_are_means_over_the_seeds(tmp_path: Path) -> None:
    """Prevents: the curve of one seed taken for all, and a band of another column."""
    setting = Setting((), [run(tmp_path / "a", 0, 0.2, 0.6), run(tmp_path / "b", 1, 0.4, 0.8)])
    drawn = over_training(setting)
    (line,) = re.findall(r'<polyline class="s0" points="([^"]*)"', drawn)
    (band,) = re.findall(r'<polygon class="s0" points="([^"]*)"', drawn)
    y = [float(point.split(",")[1]) for point in line.split()]
    edge = [float(point.split(",")[1]) for point in band.split()]
    unit = (y[0] - y[1]) / 0.3  # from 0.3 to 0.6
    assert (edge[3] - edge[0]) / unit == pytest.approx(0.2, abs=0.01)
    assert (edge[2] - edge[1]) / unit == pytest.approx(0.6, abs=0.01)
    areas = separation([setting], ["rwkd"])
    assert set(areas) == {"label_flipped"} and "rwkd: weight" in areas["label_flipped"]
    assert areas["label_flipped"].count("h0") == 2 and "loss_ce" not in areas["label_flipped"]


def test_weight_against_difficulty(tmp_path: Path) -> None:
    """Prevents: rows in another order, and rows without a loss that are counted as the hardest."""
    loss = [float(i) for i in reversed(range(40))] + [None] * 7
    weight = [i / 100 for i in reversed(range(40))] + [9.0] * 7
    pyarrow.parquet.write_table(pyarrow.table({"loss_ce": loss, "w_ce": weight}), tmp_path / "weights.parquet")
    (found,) = tenths(tmp_path / "weights.parquet", ["ce"]).values()
    assert found == pytest.approx([(4 * i + 1.5) / 100 for i in range(10)])
    assert tenths(tmp_path / "weights.parquet", ["kd"]) == {} == tenths(tmp_path / "none", ["ce"])
