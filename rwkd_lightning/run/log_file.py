"""``log/metrics.csv``: a row for a step, each step once, however often the training was interrupted."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback


class LogFile(Callback):
    """Writes what the module logs, before the checkpoint of that step; a resumed training goes on where that stopped.

    Columns: step (student steps done), epoch, then the metrics as they first appear.

    Args:
        path: of the file.
        every: student steps per row; 0: none.
        held_out: beginning of the names that belong to a validation, which gets a row of its own.
    """

    def __init__(self, path: Path, every: int, held_out: str = "meta/") -> None:
        self.path, self.every, self.held_out = path, every, held_out
        self.columns = ["step", "epoch"]
        self.rows = 0

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        rows: list[list[str]] = []
        if self.rows and self.path.is_file():
            with self.path.open(newline="") as file:
                self.columns, *rows = csv.reader(file)
        self.rows = min(self.rows, len(rows))
        self._replace(rows[: self.rows])

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        if self.every and trainer.global_step % self.every == 0:
            self._add(trainer, held_out=False)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._add(trainer, held_out=True)

    def _add(self, trainer: lightning.Trainer, held_out: bool) -> None:
        if not trainer.is_global_zero:
            return
        row = {"step": str(trainer.global_step), "epoch": str(trainer.current_epoch)}
        row |= {
            name: repr(float(value))
            for name, value in sorted(trainer.callback_metrics.items())
            if name.startswith(self.held_out) is held_out
        }
        if new := [name for name in row if name not in self.columns]:
            self.columns += new
            with self.path.open(newline="") as file:
                _, *rows = csv.reader(file)
            self._replace(rows)
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow(row)
        self.rows += 1

    def _replace(self, rows: list[list[str]]) -> None:
        """Write all rows again, in one move."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        with part.open("w", newline="") as file:
            csv.writer(file).writerows([self.columns, *(row + [""] * (len(self.columns) - len(row)) for row in rows)])
        os.replace(part, self.path)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]
