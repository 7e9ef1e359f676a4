"""The Python examples of README and docs/library.md run as they are printed, and its commands name what exists."""

from __future__ import annotations

import re
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


class Student(nn.Module):
    """Two layers on ten inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 3))

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"logits": self.layers(batch["x"])}


def batch(seed: int, size: int = 16) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 10, generator=draw)
    labels = x[:, :3].argmax(1)
    return {"x": x, "labels": labels, "teacher_logits": 4 * x[:, :3], "index": torch.arange(size)}


def right(student: Student) -> float:
    """Accuracy on rows of its own."""
    test = batch(10_000, 500)
    return float((student.eval()(test)["logits"].argmax(1) == test["labels"]).float().mean())


class Teacher(nn.Module):
    """Sees what the labels are made of."""

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"logits": 4 * batch["x"][:, :3]}


def test_the_example_with_lightning_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents: an example that no longer runs, or runs and trains nothing."""
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    monkeypatch.chdir(tmp_path)  # where a plain Trainer keeps its checkpoint
    torch.manual_seed(0)
    student = Student()
    rows = [{name: batch(seed, size)[name] for name in ("x", "labels")} for seed, size in ((1, 400), (2, 100))]
    train, held_out = ([dict(zip(part, row, strict=True)) for row in zip(*part.values(), strict=True)] for part in rows)
    before = right(student)
    exec(code, {"student": student, "teacher": Teacher(), "train": train, "held_out": held_out})
    assert right(student) > max(before + 0.2, 0.8)


def test_plain_loop_learns() -> None:
    """Prevents: the same of the loop without Lightning."""
    *_, code = re.findall(r"```python\n(.*?)```", (ROOT / "docs/library.md").read_text(), re.S)
    names: dict[str, Any] = {}
    exec(code, names)
    torch.manual_seed(0)
    student = Student()
    before = right(student)
    names["distil"](student, [batch(i) for i in range(400)], [batch(1000 + i) for i in range(400)])
    assert right(student) > max(before + 0.2, 0.6)


def test_every_weighting_is_in_the_readme() -> None:
    """Prevents: a method nobody can find."""
    assert "(docs/methods/README.md)" in README
    for file in (ROOT / "conf/weighting").glob("*.yaml"):
        assert file.read_text().startswith("# "), f"{file.name} needs its description as first comment"


def test_the_picture_is_of_the_table() -> None:
    """Prevents: a picture that shows other numbers than docs/results.md."""
    made = runpy.run_path(str(ROOT / "docs/pictures/corruption.py"))
    assert (ROOT / "docs/pictures/corruption.svg").read_text() == made["picture"](), "run docs/pictures/corruption.py"
    measured = made["rows"]()
    for name, mean in (("kd", ".670"), ("global", ".675"), ("rwkd", ".708"), ("oracle", ".729")):
        assert sum(measured[name]) / 5 == pytest.approx(float(mean), abs=6e-4) and mean in README


def test_every_link_of_the_readme_leads_somewhere() -> None:
    """Prevents: a page that was moved and is still named."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert len(links) > 25 and [link for link in links if not (ROOT / link).exists()] == []


def test_the_readme_is_short() -> None:
    """Prevents: a first screen that grows with every feature."""
    assert len(README.split()) <= 1200
