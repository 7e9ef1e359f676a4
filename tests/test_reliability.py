"""Every row of docs/reliability.md is kept by a test."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent


def test_every_promise_has_its_test() -> None:
    """Prevents: a promise that no test keeps any more."""
    rows = [row for row in (TESTS.parent / "docs/reliability.md").read_text().splitlines() if row.startswith("| ")][1:]
    for row in rows:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", row)
        assert named, row
        for file, test in named:
            assert f"def {test}(" in (TESTS / file).read_text(), (file, test)
    assert len(rows) > 8
