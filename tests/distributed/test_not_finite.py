"""NaN in one of two processes stops both: one that went on alone would wait for the other for ever, or train on it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.forked import two

SCRIPT = Path(__file__).with_name("not_finite_run.py")


@pytest.mark.parametrize("case", ["kd", "rwkd", "influence"])
def test_both_stop(tmp_path: Path, case: str) -> None:
    """Prevents: a process that waits in a collective for one that has stopped; a message that only the process with the
    row can give; parameters, φ or record with NaN in them.
    """
    for done in two(
        str(tmp_path / "out"), case, script=SCRIPT
    ):  # one left waiting would need the collectives' half hour
        assert done.returncode == 0, done.stdout[-3000:]
    first, second = (torch.load(tmp_path / f"out.{rank}") for rank in (0, 1))
    samples = "[1017, 1019, 1021, 1023]" if case == "influence" else "[1021]"
    what = "influence" if case == "influence" else "loss"
    assert first["said"] == second["said"]
    assert first["said"].startswith(
        f"step 2: the {what} of 'ce' and 'kd' is nan for the samples {samples}; lower `optimizer.lr`"
    )
    assert first["what"] == second["what"] == what and first["step"] == second["step"] == 2
    assert first["clean"] and second["clean"]
    assert first["rows"].tolist() == [1016, 1018, 1020, 1022] and second["rows"].tolist() == [1017, 1019, 1021, 1023]
    assert bool(first["losses"].isfinite().all())
    assert second["losses"].isfinite().all(1).tolist() == [True, True, case == "influence", True]
