"""The keys of a system, found from the config: one of the package, or one of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rwkd_lightning.cli.kinds import Schema
from rwkd_lightning.cli.overrides import check
from rwkd_lightning.cli.schema import schema_of
from rwkd_lightning.systems.text.schema import SCHEMA as TEXT
from rwkd_lightning.systems.tokens.schema import SCHEMA as TOKENS
from rwkd_lightning.systems.topics.schema import SCHEMA as TOPICS
from rwkd_lightning.utils.errors import UserError

CONF = Path(__file__).parents[2] / "conf"
YAML = """# A task of one's own.
system:
  _target_: {target}
load: {{_target_: builtins.dict}}
regression: null
teacher_epochs: 1
epochs: 1
terms: [ce, kd]
meta_terms: {{hard: [ce], soft: [kd]}}
width: 3
depth: x
"""
SYSTEM = """
from rwkd_lightning.cli.kinds import COUNT, Schema
from rwkd_lightning.utils.errors import UserError


def too_wide(given):
    if given["task.width"] > 100:
        raise UserError(f"task.width={given['task.width']} is too wide; give 100 or less")


class Own:
    schema = Schema(needed={"task.width": COUNT}, checks=(too_wide,))


class Plain:
    pass


class Wrong:
    schema = {"task.width": int}
"""


@pytest.mark.parametrize(
    ("system", "schema"),
    [
        ({"_target_": "rwkd_lightning.systems.text.system.TextSystem"}, TEXT),
        ({"_target_": "rwkd_lightning.systems.topics.system.TopicSystem"}, TOPICS),
        ({"_target_": "rwkd_lightning.systems.tokens.system.TokenSystem"}, TOKENS),
        ({"_target_": "collections.OrderedDict"}, Schema()),
    ],
)
def test_systems(system: Any, schema: Schema) -> None:
    """Prevents: a run that is checked by the keys of another system, or by none."""
    assert schema_of({"system": system}) == schema


@pytest.mark.parametrize(
    ("system", "said"),
    [
        ("txt", "task.system is 'txt'; give task.system._target_=MODULE.CLASS"),
        (None, "task.system is null; give task.system"),
        ({"_target_": "no_such_module.System"}, "task.system._target_=no_such_module.System cannot be imported"),
        ({"_target_": "builtins.len"}, "cannot be imported"),
        ({}, "task.system is "),
    ],
)
def test_systems_that_are_not_there(system: Any, said: str) -> None:
    """Prevents: a traceback of importlib."""
    with pytest.raises(UserError) as caught:
        schema_of({"system": system})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("target", "arguments", "said"),
    [
        ("Own", [], None),
        ("Own", ["task.width=7", "task.depth=anything"], None),
        ("Plain", ["task.width=-1"], None),
        ("Own", ["task.width=0"], "task.width is 0; give a whole number from 1"),
        ("Own", ["task.width=101"], "task.width=101 is too wide"),
        ("Own", ["task.widht=1"], "task.widht is not a key with task=own; did you mean task.width?"),
        ("Own", ["optimizer.lr=0"], "optimizer.lr is 0; give a number above 0"),
        ("Own", ["-m", "task.width=1,2,101", "seed=0,1"], "task.width=101 is too wide"),
        ("Wrong", [], "its schema is a dict, and no Schema"),
    ],
)
def test_a_system_of_ones_own_brings_its_keys(
    target: str, arguments: list[str], said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prevents: configs beside the package's that nothing checks, or whose own keys are refused."""
    (tmp_path / "task").mkdir()
    (tmp_path / "task/own.yaml").write_text(YAML.format(target=f"own_system_under_test.{target}"))
    (tmp_path / "own_system_under_test.py").write_text(SYSTEM)
    monkeypatch.syspath_prepend(tmp_path)
    flags = ["--config-dir", str(tmp_path), *(a for a in arguments if a == "-m")]
    command = [*flags, "task=own", *(a for a in arguments if a != "-m")]
    if said is None:
        check(command, CONF)
        return
    with pytest.raises(UserError) as caught:
        check(command, CONF)
    assert said in str(caught.value)


def test_a_folder_of_configs_that_is_not_there() -> None:
    """Prevents: Hydra's several lines for a misspelt folder."""
    with pytest.raises(UserError, match="--config-dir nowhere is no directory"):
        check(["--config-dir", "nowhere", "task=own"], CONF)
