"""The commands of the pages on students, layers, small tables and pictures can be typed."""

from __future__ import annotations

import re
import shlex

import pytest

from rwkd_lightning.compress import settings_of
from rwkd_lightning.systems.text.schema import KIND
from tests.test_remedies import ROOT, config

PAGES = ("students", "layers", "compression", "multimodal")
TEXTS = {name: (ROOT / f"docs/{name}.md").read_text() for name in PAGES}
LINES = [
    (name, line)
    for name, text in TEXTS.items()
    for block in re.findall(r"```bash\n(.*?)```", text, re.S)
    for line in block.splitlines()
]


@pytest.mark.parametrize(("page", "line"), LINES)
def test_a_command_can_be_typed(page: str, line: str) -> None:
    """Prevents: a documented key that the command line refuses."""
    words = shlex.split(line, comments=True)
    if words[1] == "train.py":
        assert config(*words[2:]).terms
    else:
        assert words[:4] == ["python", "-m", "rwkd_lightning.compress", "RUN"]
        assert settings_of([word for word in words[4:] if not word.startswith("--")])["ratio"] == 10


def test_every_key_is_documented() -> None:
    """Prevents: an option that nobody finds."""
    missing = [key for key in KIND if key != "name" and f".{key}" not in TEXTS["students"]]
    settings = [key for key in settings_of([]) if f"`{key}=" not in TEXTS["compression"] and key != "ratio"]
    options = [key for key in config().loss_terms.layer_kd if f"`{key}" not in TEXTS["layers"]]
    assert missing + settings + options == ["_target_", "temperature"]
