"""The commands of docs/summaries.md can be typed, and its keys are there."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.test_remedies import CONF, ROOT, config, overrides

TEXT = (ROOT / "docs/summaries.md").read_text()
LINES = [line for block in re.findall(r"```bash\n(.*?)```", TEXT, re.S) for line in block.splitlines()]
TRAIN = [shlex.split(line, comments=True)[2:] for line in LINES if "train.py" in line]


@pytest.mark.parametrize("words", TRAIN, ids=" ".join)
def test_a_command_can_be_typed(words: list[str]) -> None:
    """Prevents: a documented key that the command line refuses."""
    if words[0] == "-m":
        overrides.check(words, CONF)
    else:
        assert config(*words).terms


def test_every_key_is_documented() -> None:
    """Prevents: an option, or a term, that nobody finds."""
    composed = config("task=summaries")
    common = {"path", "batch_size", "eval_batch_size", "num_workers", "split_seed"}
    keys = {f"data.{key}" for key in composed.data if key not in common and not str(key).endswith("_fraction")}
    keys |= {f"pair.teacher.{key}" for key in ("model", "smoothing", "dropout", "passes", "along", "top_k")}
    keys |= {str(key) for key in composed.loss_terms if key not in ("annealed_mse", "soft_ce")}
    assert [key for key in sorted(keys) if f"`{key}`" not in TEXT] == []
