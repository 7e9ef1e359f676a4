"""Rank the training rows of a finished run by distrust: ``python -m rwkd_lightning.audit RUN``."""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from rwkd_lightning.audit import page
from rwkd_lightning.audit.rows import Audited, order
from rwkd_lightning.cache.disk import writing
from rwkd_lightning.cache.store import Store
from rwkd_lightning.cli.words import config_words
from rwkd_lightning.export.shipped import check_run
from rwkd_lightning.run import inputs
from rwkd_lightning.run.build import system_of, trainer_of
from rwkd_lightning.run.epochs import of_epochs
from rwkd_lightning.run.identity import device_kind
from rwkd_lightning.run.outputs import area_under_roc, whole
from rwkd_lightning.run.result_table import title_of
from rwkd_lightning.run.signals import Stop
from rwkd_lightning.run.system import Run
from rwkd_lightning.utils import commands
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.paths import place

LABELS, TEACHER, PAGE = "labels.csv", "teacher.csv", "index.html"


def audit(folder: Path, out: Path, folds: int) -> list[str]:
    """Write the audit of a finished run to ``out``, whole or not at all; returns lines to print.

    Args:
        folds: of the out-of-fold scores; 0: the teacher's own.

    Raises:
        UserError: if the run is not finished, its data or models are others now, or its rows cannot be audited.
    """
    check_run(folder)
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / PAGE).is_file())):
        raise UserError(f"--out={str(out)!r} exists and is no audit; give another folder")
    config = OmegaConf.load(folder / "config.yaml")
    assert isinstance(config, DictConfig)
    table = pyarrow.parquet.read_table(folder / "weights.parquet").to_pydict()
    system = system_of(config)
    system.read()
    inputs.check_data(folder, system.inputs, "audit its rows")
    stop = Stop()
    device = torch.device("cuda" if device_kind(config.trainer.accelerator) == "cuda" else "cpu")
    store = Store(Path(config.cache_dir).expanduser())
    with stop.listening():
        run = Run(folder, store, trainer_of(config), stop, device, config.checkpoint)
        rows = system.audit(run, table, folds)
    history = {term: of_epochs(folder, f"w_{term}") for term in config.terms}
    with writing(out.parent, "--out"):
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole(out) as part:
            for name, score in ((LABELS, rows.label_score), (TEACHER, rows.teacher_score)):
                write_csv(part / name, table, rows, score)
            title = title_of(json.loads((folder / "metrics.json").read_text()))
            (part / PAGE).write_text(page.html(title, table, rows, history), encoding="utf-8")
            part.chmod(out.parent.stat().st_mode & 0o777)
    return [*rows.notes, *found(table, rows), f"wrote {out / LABELS}, {out / TEACHER} and {out / PAGE}"]


def records(table: dict[str, list[Any]], rows: Audited, score: Tensor) -> Iterator[dict[str, Any]]:
    """The rows as they are written, the least trusted first."""
    skipped = {"idx", "split", "label"}
    for rank, row in enumerate(order(score), 1):
        yield {
            "rank": rank,
            "idx": table["idx"][row],
            "score": number(score[row]),
            **{name: texts[row] for name, texts in rows.texts.items()},
            "label": rows.given[row],
            "suggested": rows.teacher[row],
            "student": rows.student[row],
            **{name: number(values[row]) for name, values in rows.columns.items()},
            **{name: values[row] for name, values in table.items() if name not in skipped},
        }


def number(value: Tensor) -> float | None:
    """A number for a table; None for NaN."""
    plain = float(value)
    return None if plain != plain else round(plain, 6)


def write_csv(path: Path, table: dict[str, list[Any]], rows: Audited, score: Tensor) -> None:
    """All rows, the least trusted first."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = None
        for record in records(table, rows, score):
            writer = writer or csv.DictWriter(file, list(record))
            if record["rank"] == 1:
                writer.writeheader()
            writer.writerow(record)


def found(table: dict[str, list[Any]], rows: Audited) -> list[str]:
    """How well the scores find what was corrupted on purpose; nothing where nothing was."""
    lines = []
    for name, score in (("label_flipped", rows.label_score), ("teacher_corrupted", rows.teacher_score)):
        flags = torch.tensor(table.get(name, []), dtype=torch.bool)
        if not len(flags):
            continue
        known = score.isfinite()
        flags, kept = flags[known], score[known]
        count = int(flags.sum())
        if 0 < count < len(flags):
            top = kept.argsort(descending=True, stable=True)[:count]
            lines.append(
                f"{name}: area under the ROC curve {area_under_roc(kept, flags):.3f}, "
                f"{flags[top].double().mean():.1%} of the first {count} rows"
            )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status, 1 for a mistake reported in one line."""
    parser = argparse.ArgumentParser(
        prog="python -m rwkd_lightning.audit",
        description="Rank the training rows of a finished run by distrust of their labels and of their teacher.",
    )
    parser.add_argument("run", metavar="RUN", help="the folder of a finished run")
    parser.add_argument("-o", "--out", metavar="DIR", help="the folder to write (RUN/audit)")
    parser.add_argument(
        "--folds",
        type=int,
        default=0,
        metavar="K",
        help="ask, for each K-th of the rows, a teacher fine-tuned on the others (takes K trainings of it)",
    )
    options = parser.parse_args(arguments)

    def work() -> None:
        if options.folds < 0 or options.folds == 1:
            raise UserError(f"--folds={options.folds}; give 2 or more, 5 say")
        run = place(options.run, "RUN")
        out = run / "audit" if options.out is None else place(options.out, "--out")
        with config_words():
            print("\n".join(audit(run, out, options.folds)))

    commands.quietly()
    return commands.status(work, "interrupted; a fold that was finished is kept in the cache")


if __name__ == "__main__":
    commands.run(main)
