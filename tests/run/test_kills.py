"""A few kills at random moments; ``python -m tests.run.kills`` does more of them, through ``train.py``."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path

from tests.forked import CONTEXT
from tests.run.kills import campaign
from tests.run.test_pipeline_run import config


class Forked:
    """A run in a process of its own."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.process = CONTEXT.Process(target=work, args=(list(arguments),))
        self.process.start()

    def poll(self) -> int | None:
        return self.process.exitcode

    def kill(self) -> None:
        self.process.kill()


def work(arguments: list[str]) -> None:
    """What the process does."""
    from rwkd_lightning.run.runner import run

    os.environ["TQDM_DISABLE"] = "1"
    (root,) = (Path(a.removeprefix("runs_dir=")) for a in arguments if a.startswith("runs_dir="))
    run(config(arguments), root / "tweets" / "rwkd")


def test_killed_runs_end_as_if_nothing_had_happened(tmp_path: Path) -> None:
    """Prevents: a file half written at the moment of the kill that is taken for a whole one, steps lost or done
    twice.
    """
    seed = random.randrange(1000)
    hit, wrong = campaign(Forked, tmp_path, kills=8, seed=seed)
    assert sum(hit.values()) == 8 and not wrong, (seed, hit, wrong)
