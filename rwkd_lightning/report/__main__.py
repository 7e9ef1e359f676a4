"""Finished runs side by side, as a table and a page: ``python -m rwkd_lightning.report RUNS``."""

from __future__ import annotations

import argparse
import html
import os
from collections.abc import Sequence
from pathlib import Path

from rwkd_lightning.cache.disk import writing
from rwkd_lightning.report.charts import cloud
from rwkd_lightning.report.page import FILE, document, section
from rwkd_lightning.report.runs import Finished, differing, finished, table
from rwkd_lightning.run.result_table import columns
from rwkd_lightning.utils import commands
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.paths import place


def page(title: str, runs: Sequence[Finished]) -> str:
    """A page of the table and, for each number in which the runs differ, the score on the meta split against it."""
    head, *rows = table(runs)
    cells = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    names = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    shown = f"<div class=rows><table><tr>{names}</tr>{''.join(f'<tr>{row}</tr>' for row in cells)}</table></div>"
    sections = [section("Settings, the best on the meta split first", shown, wide=True)]
    in_order = {"meta": [(float(number), run.meta) for number, run in enumerate(runs, 1)]}
    sections.append(section("Runs in the order of their folders", cloud(in_order, "run", "meta")))
    for key in differing(runs):
        points = [(float(str(x)), run.meta) for run in runs if is_number(x := run.settings.get(key))]
        if len({x for x, _ in points}) > 1:
            sections.append(section(key, cloud({"meta": points}, key, "meta")))
    return document(title, sections)


def is_number(value: object) -> bool:
    """Whether a setting is a number that can stand on an axis."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status, 1 for a mistake reported in one line."""
    parser = argparse.ArgumentParser(
        prog="python -m rwkd_lightning.report", description="Finished runs of one task side by side."
    )
    parser.add_argument("runs", metavar="RUNS", help="a folder of finished runs, as runs/TASK")
    parser.add_argument("-o", "--out", metavar="FILE", help=f"the page to write (RUNS/{FILE})")
    options = parser.parse_args(arguments)

    def work() -> None:
        folder = place(options.runs, "RUNS")
        runs = finished(folder)
        out = folder / FILE if options.out is None else place(options.out, "--out")
        if (out.parent / "metrics.json").is_file() and out.name == FILE:
            raise UserError(f"{str(folder)!r} is one run, whose page is {out}; give the folder that holds several")
        with writing(out.parent, "--out"):
            part = out.with_name(f".{out.name}.part")
            part.write_text(page(str(Path(options.runs)), runs), encoding="utf-8")
            os.replace(part, out)
        print("\n".join(columns(table(runs))))
        print(f"\n{len(runs)} runs; wrote {out}")

    return commands.status(work)


if __name__ == "__main__":
    commands.run(main)
