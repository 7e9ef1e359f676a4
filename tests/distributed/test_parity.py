"""Two processes with half the batch each do what one does with all of it.

The silent failure: gradients taken with ``torch.autograd.grad`` stay on their rank under any flag of DDP, and a run of
several processes trains on, to another result.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.distributed.parity_run import CASES
from tests.forked import Command, two

SCRIPT = Path(__file__).with_name("parity_run.py")
BOUNDS = {"64-true": 1e-8, "32-true": 1e-3}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """One process's, and those of both of two."""
    folder = tmp_path_factory.mktemp("parity")
    alone = Command(str(folder / "one.pt"), script=SCRIPT)
    for done in (*two(str(folder / "two.pt"), script=SCRIPT), alone.completed()):
        assert done.returncode == 0, done.stdout[-3000:]
    return [torch.load(folder / name) for name in ("one.pt", "two.pt", "two.pt.1")]


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("case", CASES)
def test_two_processes_are_one(results, case, precision):
    """Prevents: v, the lookahead's gradient, φ's gradient, or a statistic of the batch that is one rank's only; rows of
    another rank that the ledger does not know; ranks that drift apart.
    """
    one, two, other = (result[case, precision] for result in results)
    moved = float((one["after"] - one["before"]).norm())
    assert moved > 1
    assert float((two["after"] - one["after"]).norm()) / moved < BOUNDS[precision]
    assert float((two["own"] - one["own"]).norm()) <= BOUNDS[precision] * float(one["own"].norm())
    scale = max(1.0, float(one["weights"].max()))
    assert float((two["weights"] - one["weights"]).abs().max()) < BOUNDS[precision] * scale
    for name in ("visits", "meta_visits", "valid"):
        assert torch.equal(two[name], one[name]), name
    assert two["visits"].tolist() == [5] * 64
    for name in ("after", "own", "weights", "influence", "visits", "meta_visits", "valid"):
        assert torch.equal(two[name], other[name]), f"the ranks differ in {name}"
