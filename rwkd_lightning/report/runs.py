"""Several runs side by side: the settings in which they differ, their scores over the seeds, and those that failed."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rwkd_lightning.utils.errors import UserError

LEFT_OUT = ("cache_dir", "runs_dir", "force", "seed", "checkpoint", "logger", "callbacks")
"""Keys that do not tell one setting from another."""
METHOD = "weighting_name"
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
    metric: str
    scores: Mapping[str, float]
    """The student's, of ``metric``, by split."""
    seconds: float
    metrics: Mapping[str, Any]
    """Of ``metrics.json``."""


@dataclass(frozen=True)
class Failed:
    """A run's folder without a result."""

    folder: Path
    why: str


@dataclass
class Setting:
    """The runs that differ in their seed alone."""

    values: tuple[Any, ...]
    """Of the keys in which settings differ."""
    runs: list[Finished] = field(repr=False)

    def of(self, key: str) -> Any:
        """The value of a key, dotted; None where its runs have none."""
        return self.runs[0].settings.get(key)

    def seconds(self) -> float:
        """The mean time of the student's training."""
        return statistics.fmean(run.seconds for run in self.runs)


def finished(folder: Path, metric: str | None = None) -> tuple[list[Finished], list[Failed]]:
    """All finished runs below a folder, in the order of their paths, and those that are not finished.

    Args:
        metric: of the scores; None: the one that the task is known by.

    Raises:
        UserError: if none is finished, if they are of several tasks, or if they have no such metric.
    """
    found, failed = [], []
    tasks: set[str] = set()
    names: set[str] = set()
    for config in sorted(folder.rglob("config.yaml")):
        if config.parent.name == ".hydra":
            continue
        file = config.with_name("metrics.json")
        if not file.is_file():
            failed.append(Failed(file.parent, why(file.parent)))
            continue
        try:
            metrics: Any = json.loads(file.read_text(encoding="utf-8"))
            plain: Any = OmegaConf.to_container(OmegaConf.load(config), resolve=True)
            found.append(run_of(file.parent, metrics, dict(leaves(plain)), metric))
            tasks.add(str(metrics["task"]))
            names.update(name for scores in metrics["student"].values() for name in scores)
        except Exception as error:  # of JSON, of YAML, of keys that are not there
            failed.append(Failed(file.parent, f"its files cannot be read as those of a run ({type(error).__name__})"))
    if not found:
        rest = f" but {failed[0].folder}: {failed[0].why}" if failed else "; give a folder of runs, as runs/TASK"
        raise UserError(f"{str(folder)!r} holds no finished run{rest}")
    if len(tasks) > 1:
        raise UserError(f"{str(folder)!r} holds runs of {' and '.join(sorted(tasks))}; give the folder of one task")
    if metric is not None and metric not in names:
        raise UserError(f"--metric {metric}: these runs have {', '.join(sorted(names))}")
    return found, failed


def why(folder: Path) -> str:
    """What is known of a run without a result."""
    if (folder / "failed_step.json").is_file():
        return "stopped at a step that was not finite, see its failed_step.json"
    return "not finished: it failed, was interrupted or pruned, or is still at work; the same command goes on with it"


def run_of(folder: Path, metrics: Mapping[str, Any], settings: Mapping[str, Any], metric: str | None) -> Finished:
    """One run, from its files."""
    name = metrics["metric"] if metric is None else metric
    scores = {split: value_of(found[name]) for split, found in metrics["student"].items() if name in found}
    meta = value_of(next(iter(metrics["meta"].values())))
    seconds = float(metrics["cost"]["train_seconds"])
    return Finished(folder, settings, metrics["seed"], meta, name, scores, seconds, metrics)


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


def all_differing(runs: Sequence[Finished]) -> list[str]:
    """Every key in which the runs differ, but those that are the seed in each of them; the shortest first."""
    keys = {key for run in runs for key in run.settings if not key.startswith(LEFT_OUT)}
    varied = [
        key
        for key in keys
        if len({text(run.settings.get(key)) for run in runs}) > 1
        and any(run.settings.get(key) != run.seed for run in runs)
    ]
    return sorted(varied, key=lambda key: (key != METHOD, key.count("."), len(key), key))


def differing(runs: Sequence[Finished]) -> list[str]:
    """The keys in which the runs differ, without those that another one of them decides."""
    kept: dict[tuple[int, ...], str] = {}
    for key in all_differing(runs):
        column = [text(run.settings.get(key)) for run in runs]
        numbers = {value: number for number, value in enumerate(dict.fromkeys(column))}
        kept.setdefault(tuple(numbers[value] for value in column), key)  # the same choice
    return list(kept.values())


def text(value: Any) -> str:
    """A value, to compare it with others."""
    return json.dumps(value, sort_keys=True)


def grouped(runs: Sequence[Finished], keys: Sequence[str]) -> list[Setting]:
    """The runs of each setting, over the seeds; the best mean on the meta split first."""
    found: dict[str, list[Finished]] = {}
    for run in runs:
        found.setdefault(text([run.settings.get(key) for key in keys]), []).append(run)
    order = sorted(found.values(), key=lambda group: -mean(run.meta for run in group))
    return [Setting(tuple(group[0].settings.get(key) for key in keys), group) for group in order]


def mean(values: Iterable[float]) -> float:
    """The mean; −∞ where a run has no score, so that it stands last."""
    numbers = list(values)
    return -math.inf if any(map(math.isnan, numbers)) else statistics.fmean(numbers)


def moments(values: Iterable[float]) -> tuple[float, float]:
    """Mean and standard deviation of those that exist; NaN where there are too few."""
    known = [value for value in values if not math.isnan(value)]
    middle = statistics.fmean(known) if known else math.nan
    return middle, statistics.stdev(known) if len(known) > 1 else math.nan


def spread(values: Iterable[float]) -> str:
    """Mean and, over several seeds, standard deviation, as text."""
    middle, deviation = moments(values)
    if math.isnan(middle):
        return "undefined"
    return f"{middle:.4f}" + ("" if math.isnan(deviation) else f" ± {deviation:.4f}")


def splits_of(runs: Iterable[Finished]) -> list[str]:
    """The splits on which some run has a score."""
    return list(dict.fromkeys(split for run in runs for split in run.scores))
