"""The commands of docs/tokens.md can be typed."""

from __future__ import annotations

import re

import pytest

from rwkd_lightning.utils.errors import UserError
from tests.test_remedies import ROOT, config

PAGE = (ROOT / "docs/tokens.md").read_text()
COMMANDS = [
    line.removeprefix("python train.py ")
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S)
    for line in block.splitlines()
    if line.startswith("python train.py ")
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_can_be_typed(command: str) -> None:
    """Prevents: a documented key that the command line refuses."""
    assert config(*command.split()).task.system._target_.endswith("TokenSystem")


def test_every_key_is_documented() -> None:
    """Prevents: a key of the data that nobody finds."""
    own = set(config("task=tokens").data) - {"path", "batch_size", "eval_batch_size", "num_workers"} | {"train"}
    assert [key for key in sorted(own) if f"`data.{key}`" not in PAGE and f"data.{key}=" not in PAGE] == []


def test_another_tasks_key_is_refused() -> None:
    """Prevents: a file that was named and is not read."""
    with pytest.raises(UserError, match=r"data.path=x.conll is not read by task=tokens; give data.train=FILE"):
        config("task=tokens", "data.path=x.conll")
    with pytest.raises(UserError, match=r"pair.student.lora is not for task=tokens"):
        config("task=tokens", "pair.student.lora=8")
