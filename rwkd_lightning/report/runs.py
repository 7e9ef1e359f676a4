"""Several finished runs side by side: the settings in which they differ, and their scores over the seeds."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rwkd_lightning.utils.errors import UserError

LEFT_OUT = ("cache_dir", "runs_dir", "force", "seed", "checkpoint", "logger", "callbacks")
"""Keys that do not tell one setting from another."""
SHOWN = 8
"""Settings that differ, at most: one choice of an option can change many keys."""


@dataclass(frozen=True)
class Finished:
    """One run."""

    folder: Path
    settings: Mapping[str, Any]
    """All keys, dotted, with plain values."""
    seed: int
    meta: float
    """The score on the meta split, by which a search chooses."""
    scores: Mapping[str, float]
    """The student's, of the task's metric, by split."""
    seconds: float


def finished(folder: Path) -> list[Finished]:
    """All finished runs below a folder, in the order of their paths.

    Raises:
        UserError: if there is none, or if they are of several tasks.
    """
    found, tasks = [], set()
    for file in sorted(folder.rglob("metrics.json")):
        config = file.with_name("config.yaml")
        if not config.is_file():
            continue
        try:
            metrics: Any = json.loads(file.read_text(encoding="utf-8"))
            plain: Any = OmegaConf.to_container(OmegaConf.load(config), resolve=True)
            found.append(run_of(file.parent, metrics, dict(leaves(plain))))
            tasks.add(str(metrics["task"]))
        except Exception as error:  # of JSON, of YAML, of keys that are not there
            raise UserError(f"{file} cannot be read as that of a run ({type(error).__name__}); move it away") from error
    if not found:
        raise UserError(f"{str(folder)!r} holds no finished run; give a folder of runs, as runs/TASK")
    if len(tasks) > 1:
        raise UserError(f"{str(folder)!r} holds runs of {' and '.join(sorted(tasks))}; give the folder of one task")
    return found


def run_of(folder: Path, metrics: Mapping[str, Any], settings: Mapping[str, Any]) -> Finished:
    """One run, from its files."""
    metric = metrics["metric"]
    scores = {split: value_of(found[metric]) for split, found in metrics["student"].items() if metric in found}
    meta = value_of(next(iter(metrics["meta"].values())))
    return Finished(folder, settings, metrics["seed"], meta, scores, float(metrics["cost"]["train_seconds"]))


def value_of(number: Any) -> float:
    """A number of ``metrics.json``; NaN for one that did not exist."""
    return math.nan if number is None else float(number)


def leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All keys, dotted, that hold no group."""
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def differing(runs: Sequence[Finished]) -> list[str]:
    """The keys in which the runs differ, without those that another one of them decides; the shortest first."""
    keys = {key for run in runs for key in run.settings if not key.startswith(LEFT_OUT)}
    columns = {key: tuple(json.dumps(run.settings.get(key), sort_keys=True) for run in runs) for key in keys}
    kept: dict[tuple[int, ...], str] = {}
    for key in sorted(keys, key=lambda key: (key.count("."), len(key), key)):
        if len(set(columns[key])) > 1:
            numbers = {value: number for number, value in enumerate(dict.fromkeys(columns[key]))}
            kept.setdefault(tuple(numbers[value] for value in columns[key]), key)  # the same choice
    return list(kept.values())[:SHOWN]


def grouped(runs: Sequence[Finished], keys: Sequence[str]) -> list[tuple[tuple[Any, ...], list[Finished]]]:
    """The runs of each setting, over the seeds; the best mean on the meta split first."""
    found: dict[str, list[Finished]] = {}
    for run in runs:
        found.setdefault(json.dumps([run.settings.get(key) for key in keys]), []).append(run)
    order = sorted(found.values(), key=lambda group: -mean(run.meta for run in group))
    return [(tuple(group[0].settings.get(key) for key in keys), group) for group in order]


def mean(values: Iterator[float]) -> float:
    """The mean; −∞ where a run has no score, so that it stands last."""
    numbers = list(values)
    return -math.inf if any(map(math.isnan, numbers)) else statistics.fmean(numbers)


def spread(values: Sequence[float]) -> str:
    """Mean and, over several seeds, standard deviation, as text."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "undefined"
    deviation = f" ± {statistics.stdev(known):.4f}" if len(known) > 1 else ""
    return f"{statistics.fmean(known):.4f}{deviation}"


def table(runs: Sequence[Finished]) -> list[tuple[str, ...]]:
    """A head and a row for each setting: what differs, seeds, scores on meta and evaluation splits, seconds."""
    keys = differing(runs)
    splits = list(dict.fromkeys(split for run in runs for split in run.scores))
    head = (*keys, "seeds", "meta", *splits, "seconds")
    rows = [
        (
            *(str(value) for value in values),
            str(len(group)),
            spread([run.meta for run in group]),
            *(spread([run.scores.get(split, math.nan) for run in group]) for split in splits),
            f"{statistics.fmean(run.seconds for run in group):.0f}",
        )
        for values, group in grouped(runs, keys)
    ]
    return [head, *rows]
