"""The commands of docs/tokens.md can be typed."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rwkd_lightning.audit import __main__ as audit
from rwkd_lightning.export import __main__ as export
from rwkd_lightning.predict import __main__ as predict
from rwkd_lightning.utils.errors import UserError
from tests.test_remedies import ROOT, config

PAGE = (ROOT / "docs/tokens.md").read_text()
COMMANDS = [
    line.removeprefix("python train.py ")
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S)
    for line in block.splitlines()
    if line.startswith("python train.py ")
]
MAINS: dict[str, Callable[[list[str]], int]] = {"export": export.main, "predict": predict.main, "audit": audit.main}


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


def test_the_commands_for_a_finished_run(token_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents: an option or a file of another name than the page says."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(token_run, "RUN", ignore=shutil.ignore_patterns("export"))
    Path("new.conll").write_text("Ann\nran\n")
    Path("new.jsonl").write_text('{"tokens": ["Ann", "ran"]}\n')
    ran = []
    for line in re.findall(r"^python -m rwkd_lightning\.(.*)", PAGE, re.M):
        name, *words = shlex.split(line, comments=True)
        assert MAINS[name](words) == 0
        ran.append(name)
    assert ran == ["export", "predict", "predict", "audit"]
    assert Path("tagged.conll").read_text().count("\t") == 4 and "probability" in Path("tagged.jsonl").read_text()
