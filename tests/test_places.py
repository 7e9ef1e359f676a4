"""How many files a new weighting method, loss term or task touches: counted, and done."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hydra.utils import get_class
from omegaconf import OmegaConf

from tests.forked import ROOT, Command
from tests.run.conftest import arguments, backbone, tweets  # noqa: F401 (fixtures)
from tests.shipped_methods import ALL

SPOKEN_OF = ("rwkd", "ce", "kd", "annealed", "dwa", "uncertainty", "mwn", "rwkd_online")
"""Methods that messages and documents recommend, and that others or their tests are built on."""
METHODS = sorted({*ALL} - {*SPOKEN_OF})

WEIGHTING = """
from rwkd_lightning.weighting import Weighting


class Quarter(Weighting):
    def forward(self, step):
        weights = step.losses.new_full(step.losses.shape, 0.75)
        weights[:, step.columns("teacher")] = 0.25
        return weights
"""
TERM = """
import torch

from rwkd_lightning.terms import Term


class Cosine(Term):
    role, needs = "regulariser", frozenset({"classes"})

    def forward(self, outputs, batch):
        return 1 - torch.cosine_similarity(self.prediction(outputs, batch), self.target(batch), dim=-1)
"""
TASK = """
# The same tweets under another name.
defaults: [tweets@_here_, _self_]
epochs: 1
"""


def names_in(file: Path) -> set[str]:
    """The classes that a file defines, imports or uses."""
    if file.suffix != ".py":
        return set(file.read_text().replace(".", " ").replace("(", " ").split())
    nodes = list(ast.walk(ast.parse(file.read_text())))
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    used |= {node.name for node in nodes if isinstance(node, ast.ClassDef)}
    return used | {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}


@pytest.mark.parametrize("name", METHODS)
def test_a_shipped_weighting_touches_five_files(name: str) -> None:
    """Prevents: a table of methods in the core, and one more list to keep by hand for each method.

    The five: the method's file, its config, its page, ``weighting/__init__.py``, the golden table of the tests.
    """
    target = OmegaConf.load(ROOT / f"conf/weighting/{name}.yaml").get("_target_")
    if target is None:  # options of another method
        return
    kind = get_class(target)
    files = [
        file
        for folder in ("rwkd_lightning", "conf", "docs")
        for file in (ROOT / folder).rglob("*")
        if file.suffix in (".py", ".yaml", ".md") and kind.__name__ in names_in(file)
    ]
    assert sorted(files) == sorted(
        [
            Path(inspect.getfile(kind)),
            ROOT / "rwkd_lightning/weighting/__init__.py",
            ROOT / f"conf/weighting/{name}.yaml",
            ROOT / f"docs/methods/{name}.md",
        ]
    )


def test_two_files_make_a_weighting_or_a_term_and_one_a_task(
    arguments: list[str],  # noqa: F811
    tmp_path: Path,
) -> None:
    """Prevents: a method, a term or a task that the shipped ones alone can be, for an entry in some file of the
    package.
    """
    folder = tmp_path / "own"
    for file, text in {
        "quarter.py": WEIGHTING,
        "weighting/quarter.yaml": "# A quarter for the teacher.\n_target_: quarter.Quarter\n",
        "cosine.py": TERM,
        "loss_terms/own.yaml": "defaults: [default, _self_]\ncosine: {_target_: cosine.Cosine}\n",
        "task/short.yaml": TASK,
    }.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)
    done = Command(
        "--config-dir",
        str(folder),
        "task=short",
        "weighting=quarter",
        "loss_terms=own",
        "terms=[ce,kd,cosine]",
        *(argument for argument in arguments if not argument.startswith("task=")),
        f"hydra.run.dir={tmp_path / 'run'}",
        merged=True,
        environment={"PYTHONPATH": str(folder)},
        prepare=Import(folder),
    ).completed()
    assert done.returncode == 0, done.stdout
    weights = pq.read_table(tmp_path / "run/weights.parquet").to_pydict()
    assert set(weights["w_kd"]) == {0.25} and set(weights["w_cosine"]) == {0.75}
    assert min(weights["loss_cosine"]) >= 0


class Import:
    """Let a forked process find modules in a folder, as ``PYTHONPATH`` does for one that starts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self) -> None:
        import sys

        sys.path.insert(0, str(self.folder))
