"""Runs side by side, over their seeds and against a baseline: ``python -m rwkd_lightning.report RUNS``."""

from __future__ import annotations

import argparse
import html
import os
from collections.abc import Sequence
from pathlib import Path

from rwkd_lightning.cache.disk import writing
from rwkd_lightning.report import plots
from rwkd_lightning.report.charts import cloud
from rwkd_lightning.report.compare import Baseline, baseline_of, compared
from rwkd_lightning.report.page import FILE, document, section
from rwkd_lightning.report.runs import SHOWN, Failed, Finished, differing, finished, grouped, splits_of
from rwkd_lightning.report.table import Lines, as_csv, as_json, markdown, name_of, remarks, table
from rwkd_lightning.run.result_table import columns
from rwkd_lightning.utils import commands
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.paths import place

DRAWS = 5000


def page(
    title: str,
    runs: Sequence[Finished],
    lines: Lines,
    keys: Sequence[str],
    split: str,
    notes: Sequence[str],
    failed: Sequence[Failed],
) -> str:
    """A page of the table, the pictures of the settings and, for each number in which the runs differ, the score on the
    meta split against it.
    """
    head, *rows = table(lines, keys)
    cells = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    names = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    shown = f"<div class=rows><table><tr>{names}</tr>{''.join(f'<tr>{row}</tr>' for row in cells)}</table></div>"
    told = "".join(f"<p class=quiet>{html.escape(note)}</p>" for note in notes)
    sections = [section("Settings, the best on the meta split first", shown + told, wide=True)]
    sections += plots.sections(lines, [name_of(setting, keys) for setting, _ in lines], split)
    in_order = {"meta": [(float(number), run.meta) for number, run in enumerate(runs, 1)]}
    sections.append(section("Runs in the order of their folders", cloud(in_order, "run", "meta")))
    for key in keys[:SHOWN]:
        points = [(float(str(x)), run.meta) for run in runs if is_number(x := run.settings.get(key))]
        if len({x for x, _ in points}) > 1:
            sections.append(section(key, cloud({"meta": points}, key, "meta")))
    if failed:
        rest = "".join(f"<p>{html.escape(f'{one.folder}: {one.why}')}</p>" for one in failed)
        sections.append(section("Without a result", rest, wide=True))
    return document(title, sections)


def is_number(value: object) -> bool:
    """Whether a setting is a number that can stand on an axis."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status, 1 for a mistake reported in one line."""
    parser = argparse.ArgumentParser(prog="python -m rwkd_lightning.report", description="Runs of one task, compared.")
    parser.add_argument("runs", metavar="RUNS", help="a folder of finished runs, as runs/TASK")
    parser.add_argument("-o", "--out", metavar="FILE", help=f"the page to write (RUNS/{FILE}); .md, .csv, .json beside")
    parser.add_argument("--baseline", metavar="KEY=VALUE", action="append", help="compare with it: weighting=kd")
    parser.add_argument("--split", help="whose scores are compared (the last one that is scored)")
    parser.add_argument("--metric", help="which score (the one that the task is known by)")
    parser.add_argument("--draws", type=int, default=DRAWS, help=f"replicates of the bootstrap ({DRAWS})")
    options = parser.parse_args(arguments)

    def work() -> None:
        folder = place(options.runs, "RUNS")
        if options.draws < 100:
            raise UserError(f"--draws {options.draws} is too few to tell a small p from a large one; give 100 or more")
        runs, failed = finished(folder, options.metric)
        out = folder / FILE if options.out is None else place(options.out, "--out")
        if (out.parent / "metrics.json").is_file() and out.name == FILE:
            raise UserError(f"{str(folder)!r} is one run, whose page is {out}; give the folder that holds several")
        if out.suffix != ".html":
            raise UserError(f"--out {options.out}: the page is HTML; give a name that ends in .html")
        split = split_of(runs, options.split)
        keys = differing(runs)
        settings = grouped(runs, keys)
        baseline: Baseline | None = None
        lines: Lines = [(setting, None) for setting in settings]
        if options.baseline is not None:
            baseline = baseline_of(options.baseline, settings)
            lines = list(zip(settings, compared(settings, baseline, split, options.draws), strict=True))
        notes, title = remarks(lines, keys, baseline, split, options.draws), str(Path(options.runs))
        rows = table(lines, keys)
        files = {
            out: page(title, runs, lines, keys, split, notes, failed),
            out.with_suffix(".md"): markdown(title, rows, notes, failed),
            out.with_suffix(".csv"): as_csv(lines, keys),
            out.with_suffix(".json"): as_json(title, lines, keys, notes, failed),
        }
        with writing(out.parent, "--out"):
            for path, content in files.items():
                part = path.with_name(f".{path.name}.part")
                part.write_text(content, encoding="utf-8")
                os.replace(part, path)
        without = [f"without a result: {one.folder}: {one.why}" for one in failed]
        print("\n".join([*columns(rows), "", *notes, *without]))
        print(f"\n{len(runs)} runs; wrote {out}, and .md, .csv and .json beside it")

    return commands.status(work)


def split_of(runs: Sequence[Finished], given: str | None) -> str:
    """The split whose scores are compared.

    Raises:
        UserError: for one on which no run has a score.
    """
    known = splits_of(runs)
    if given is not None and given not in known:
        raise UserError(f"--split {given}: these runs have scores on {', '.join(known)}")
    return known[-1] if given is None else given


if __name__ == "__main__":
    commands.run(main)
