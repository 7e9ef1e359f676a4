"""The core knows no system: what one of them needs stands in its own folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = (
    "bilevel",
    "cache",
    "cli",
    "data",
    "export",
    "meta",
    "predict",
    "report",
    "run",
    "terms",
    "training",
    "utils",
    "weighting",
)
SYSTEMS = re.compile(
    r"rwkd_lightning\.systems|\b(topics?|tweets|glue|retrieval|summaries|multimodal|input_ids|attention_mask)\b"
)
ALLOWED = {
    "cli/help.py": "examples of command lines",
    "meta/restriction.py": "names the document in which four modes are compared",
}
"""Files that may name one, and why."""


@pytest.mark.parametrize("folder", CORE)
def test_no_file_of_the_core_names_a_system(folder: str) -> None:
    """Prevents: a system that is added by editing the loop, the runner, the cache or the command line."""
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in sorted((ROOT / "rwkd_lightning" / folder).rglob("*.py"))
        if str(file.relative_to(ROOT / "rwkd_lightning")) not in ALLOWED
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if SYSTEMS.search(line)
    ]
    assert found == []
