"""The commands of docs/retrieval.md can be typed, and its keys are those that there are."""

from __future__ import annotations

import re

import pytest

from tests.test_remedies import ROOT, config

PAGE = (ROOT / "docs/retrieval.md").read_text()
COMMANDS = [
    line.removeprefix("python train.py ")
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S)
    for line in block.splitlines()
    if line.startswith("python train.py ")
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_retrieval_command_can_be_typed(command: str) -> None:
    """Prevents: a documented key that the command line refuses."""
    assert config(*command.replace("-m ", "").split()).task.system._target_.endswith("RetrievalSystem")


def test_every_key_of_retrieval_is_documented() -> None:
    """Prevents: a key of the data that nobody finds."""
    own = set(config("task=retrieval").data) - {"path", "batch_size", "eval_batch_size", "num_workers"}
    assert [key for key in sorted(own) if f"`data.{key}`" not in PAGE] == []
