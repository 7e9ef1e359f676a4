"""The settings as a table: for the terminal and the page, and as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from typing import Any

from rwkd_lightning.report.compare import Baseline, Comparison, plain
from rwkd_lightning.report.runs import SHOWN, Failed, Setting, moments, splits_of, spread
from rwkd_lightning.report.statistics import FEW, LEVEL
from rwkd_lightning.run.outputs import without_nan

Lines = Sequence[tuple[Setting, Comparison | None]]
"""Each setting with its comparison; None where there is no baseline."""


def table(lines: Lines, keys: Sequence[str]) -> list[tuple[str, ...]]:
    """A head and a row for each setting: what differs, seeds, scores, the difference to the baseline, and the cost."""
    keys = keys[:SHOWN]
    splits = splits_of(run for setting, _ in lines for run in setting.runs)
    against = any(comparison for _, comparison in lines)
    head = (
        *keys,
        "seeds",
        "meta",
        *splits,
        *(("difference", f"{LEVEL:.0%} interval", "p", "p (Holm)") if against else ()),
        "seconds",
        *(("time",) if against else ()),
        "MiB",
    )
    rows = [
        (
            *("-" if value is None else plain(value) for value in setting.values[: len(keys)]),
            str(len(setting.runs)),
            spread(run.meta for run in setting.runs),
            *(spread(run.scores.get(split, math.nan) for run in setting.runs) for split in splits),
            *(told(comparison) if comparison else ()),
            f"{setting.seconds():.0f}",
            *((times(comparison),) if comparison else ()),
            "-" if math.isnan(memory(setting)) else f"{memory(setting):.0f}",
        )
        for setting, comparison in lines
    ]
    return [head, *rows]


def told(comparison: Comparison) -> tuple[str, str, str, str]:
    """Difference, interval, p and corrected p, as text."""
    if comparison.is_baseline:
        return "baseline", "", "", ""
    if comparison.of is None:
        return "-", "-", "-", "-"
    of = comparison.of
    interval = "-" if math.isnan(of.low) else f"{of.low:+.4f} to {of.high:+.4f}"
    return f"{of.mean:+.4f}", interval, share(of.p), share(comparison.holm)


def share(p: float) -> str:
    """A p-value as text."""
    return "-" if math.isnan(p) else f"{p:.4f}" if p < 0.1 else f"{p:.2f}"


def times(comparison: Comparison) -> str:
    """The cost as a multiple of the baseline's."""
    return "-" if math.isnan(comparison.times) else f"{comparison.times:.2f} x"


def memory(setting: Setting) -> float:
    """The most memory that one of the runs took, in MiB; NaN where none was measured."""
    known = [float(x) for run in setting.runs if (x := run.metrics["cost"].get("peak_memory_mib")) is not None]
    return max(known, default=math.nan)


def remarks(lines: Lines, keys: Sequence[str], baseline: Baseline | None, split: str, draws: int) -> list[str]:
    """What a reader has to know of the numbers."""
    found = ["mean ± standard deviation over the seeds; seconds are those of the student's training, their mean"]
    if len(keys) > SHOWN:
        found.append(f"not shown, though they differ: {', '.join(keys[SHOWN:])}")
    if baseline is not None:
        known = [comparison.of for _, comparison in lines if comparison and comparison.of is not None]
        rows = max((of.rows for of in known), default=0)
        over = f"seeds and {rows} test rows" if rows else "seeds"
        found.append(
            f"difference to {baseline.words} on {split}, of the mean of runs paired by seed: percentile interval and"
            f" two-sided p of a bootstrap over {over}, {draws} replicates; p (Holm) is corrected for"
            f" {sum(not math.isnan(of.p) for of in known)} comparisons"
        )
        if any(of.seeds < FEW for of in known):
            found.append(
                f"fewer than {FEW} seeds: where the seeds differ more than the test rows do, p and interval promise too"
                " much"
            )
    names = [name_of(setting, keys) for setting, _ in lines]
    for name, (_, comparison) in zip(names, lines, strict=True):
        if comparison and comparison.notes:
            found.append(f"{name}: {'; '.join(comparison.notes)}")
    return found


def name_of(setting: Setting, keys: Sequence[str]) -> str:
    """A setting in a few words: its method, and what else differs."""
    words = [
        plain(value) if key == "weighting_name" else f"{key.rpartition('.')[2]}={plain(value)}"
        for key, value in zip(keys[:SHOWN], setting.values, strict=False)
        if value is not None
    ]
    return ", ".join(words) or str(setting.runs[0].metrics.get("weighting", "all runs"))


def markdown(title: str, rows: Sequence[Sequence[str]], notes: Sequence[str], failed: Sequence[Failed]) -> str:
    """A page of Markdown."""
    head, *body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [f"# {title}", "", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(row)} |" for row in body]
    lines += ["", *(f"- {note}" for note in notes)]
    if failed:
        lines += ["", "Without a result:", "", *(f"- `{one.folder}`: {one.why}" for one in failed)]
    return "\n".join(lines) + "\n"


def records(lines: Lines, keys: Sequence[str]) -> list[dict[str, Any]]:
    """Every number of the report, a record for each setting; NaN for what there is not."""
    splits = splits_of(run for setting, _ in lines for run in setting.runs)
    found = []
    for setting, comparison in lines:
        record: dict[str, Any] = {
            "settings": dict(zip(keys, setting.values, strict=True)),
            "seeds": [run.seed for run in setting.runs],
            "metric": setting.runs[0].metric,
            "meta": summary([run.meta for run in setting.runs]),
            "scores": {split: summary([run.scores.get(split, math.nan) for run in setting.runs]) for split in splits},
            "train_seconds": summary([run.seconds for run in setting.runs]),
            "peak_memory_mib": memory(setting),
            "runs": [str(run.folder) for run in setting.runs],
        }
        if comparison is not None:
            of = comparison.of
            record["baseline"] = comparison.is_baseline
            record["difference"] = None if of is None else {**vars(of), "p_holm": comparison.holm}
            record["time"] = comparison.times
            record["notes"] = list(comparison.notes)
        found.append(record)
    return found


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation and the values themselves."""
    middle, deviation = moments(values)
    return {"mean": middle, "sd": deviation, "values": list(values)}


def as_json(title: str, lines: Lines, keys: Sequence[str], notes: Sequence[str], failed: Sequence[Failed]) -> str:
    """All records, and what is to be known of them; null for what there is not."""
    whole = {
        "title": title,
        "settings": records(lines, keys),
        "remarks": list(notes),
        "failed": [{"folder": str(one.folder), "why": one.why} for one in failed],
    }
    return json.dumps(without_nan(whole), indent=2, allow_nan=False) + "\n"


def as_csv(lines: Lines, keys: Sequence[str]) -> str:
    """A line for each setting, with full precision; empty for what there is not."""
    rows = [flat(record) for record in records(lines, keys)]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def flat(record: dict[str, Any]) -> dict[str, Any]:
    """The cells of a record."""
    row: dict[str, Any] = {key: plain(value) for key, value in record["settings"].items()}
    row |= {"seeds": " ".join(map(str, record["seeds"])), "metric": record["metric"]}
    for name, of in {"meta": record["meta"], **record["scores"], "train_seconds": record["train_seconds"]}.items():
        row |= {f"{name}_mean": of["mean"], f"{name}_sd": of["sd"]}
    row["peak_memory_mib"] = record["peak_memory_mib"]
    if "difference" in record:
        names = {"mean": "difference", "low": "low", "high": "high", "p": "p", "p_holm": "p_holm"}
        names |= {"seeds": "paired_seeds", "rows": "rows"}
        known = record["difference"] or {}
        row |= {column: known.get(name) for name, column in names.items()}
        row |= {"baseline": record["baseline"], "time": record["time"], "notes": "; ".join(record["notes"])}
    return {name: None if isinstance(cell, float) and math.isnan(cell) else cell for name, cell in row.items()}
