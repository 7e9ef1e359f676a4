"""How long each stage of a run took."""

from __future__ import annotations

import time


class Laps:
    """Seconds by stage, one after the other."""

    def __init__(self) -> None:
        self.begin = self.last = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def end(self, stage: str) -> None:
        """A stage ends here, and began where the one before ended."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self.last
        self.last = now

    @property
    def total(self) -> float:
        """Seconds since the beginning, up to the last stage's end."""
        return self.last - self.begin
