"""Each setting against a baseline that the user names, in pairs of runs with the same seed and the same test rows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hydra.core.override_parser.overrides_parser import OverridesParser

from rwkd_lightning.report import rows as scored
from rwkd_lightning.report.rows import Rows
from rwkd_lightning.report.runs import METHOD, Finished, Setting, all_differing, text
from rwkd_lightning.report.statistics import FEW, Difference, difference, holm, replicates
from rwkd_lightning.utils.errors import UserError

ALIAS = {"weighting": METHOD}


@dataclass(frozen=True)
class Comparison:
    """What a setting gains over its baseline on one split."""

    of: Difference | None
    """None for the baseline itself, and where there is nothing to compare with."""
    holm: float = math.nan
    """``p`` corrected over all comparisons of the report."""
    times: float = math.nan
    """Its training's time, as a multiple of the baseline's."""
    notes: tuple[str, ...] = ()
    is_baseline: bool = False


@dataclass(frozen=True)
class Baseline:
    """The settings that others are compared with: those that have the values of some keys."""

    words: str
    """As the user wrote it."""
    wanted: Mapping[str, Any] = field(repr=False)

    def is_free(self, key: str) -> bool:
        """Whether a setting and its baseline may differ in a key."""
        return any(key == name or key.startswith(f"{name}.") or key == ALIAS.get(name) for name in self.wanted)

    def holds(self, setting: Setting) -> bool:
        """Whether a setting is one of these."""
        return all(setting.of(ALIAS.get(name, name)) == value for name, value in self.wanted.items())


def baseline_of(given: Sequence[str], settings: Sequence[Setting]) -> Baseline:
    """The baseline, from words such as ``weighting=kd``.

    Raises:
        UserError: for words that are none, and where no setting is meant by them.
    """
    wanted: dict[str, Any] = {}
    for word in given:
        try:
            override = OverridesParser.create().parse_override(word)
            wanted[override.key_or_group.replace("/", ".")] = override.value()
        except Exception as error:  # of Hydra, of ANTLR
            raise UserError(f"--baseline {word}: write KEY=VALUE, as --baseline weighting=kd") from error
    found = Baseline(" ".join(given), wanted)
    if not any(found.holds(setting) for setting in settings):
        have = {
            name: sorted({plain(setting.of(ALIAS.get(name, name))) for setting in settings}) for name in found.wanted
        }
        told = "; ".join(f"{name} is {', '.join(values)}" for name, values in have.items())
        raise UserError(f"--baseline {found.words}: no finished run is so ({told})")
    return found


def plain(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, list):
        return f"[{','.join(map(plain, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def partner(
    setting: Setting, settings: Sequence[Setting], baseline: Baseline, keys: Sequence[str]
) -> tuple[Setting | None, list[str]]:
    """The setting to compare with, which differs in nothing but the named keys and what they decide; and remarks.

    Args:
        keys: in which any two settings differ.

    Raises:
        UserError: if there are several.
    """
    tied = [key for key in keys if not baseline.is_free(key)]
    decided = {key for key in tied if is_decided(key, settings, baseline)}
    candidates = [other for other in settings if baseline.holds(other)]
    fitting = [
        other for other in candidates if all(text(other.of(k)) == text(setting.of(k)) for k in tied if k not in decided)
    ]
    if len(fitting) > 1:
        key = next(key for key in keys if len({text(other.of(key)) for other in fitting}) > 1)
        raise UserError(
            f"--baseline {baseline.words} means {len(fitting)} settings, which differ in {key}; add "
            f"--baseline {key}={plain(fitting[0].of(key))}"
        )
    if not fitting:
        apart = [
            [k for k in tied if k not in decided and text(other.of(k)) != text(setting.of(k))] for other in candidates
        ]
        lacking = ", ".join(f"{key}={plain(setting.of(key))}" for key in min(apart, key=len))
        return None, [f"no run of {baseline.words} has {lacking}"]
    others = [key for key in sorted(decided) if text(setting.of(key)) != text(fitting[0].of(key))]
    return fitting[0], [f"differs from the baseline in {', '.join(others)} too"] if others else []


def is_decided(key: str, settings: Sequence[Setting], baseline: Baseline) -> bool:
    """Whether the named keys tell the value of another one, in all runs."""
    found: dict[str, set[str]] = {}
    for setting in settings:
        named = text([setting.of(ALIAS.get(name, name)) for name in baseline.wanted])
        found.setdefault(named, set()).add(text(setting.of(key)))
    return all(len(values) == 1 for values in found.values())


def compared(settings: Sequence[Setting], baseline: Baseline, split: str, draws: int) -> list[Comparison]:
    """Each setting against its baseline, in the same order.

    Args:
        split: whose scores are compared.
        draws: replicates of the bootstrap.
    """
    runs = [run for setting in settings for run in setting.runs if split in run.scores]
    known = {run.folder: scored.read(run.folder, split, run.metric, run.scores[split]) for run in runs}
    drawn = replicates([(run.scores[split], known[run.folder]) for run in runs], draws)
    columns = {run.folder: drawn[:, place] for place, run in enumerate(runs)}
    keys = all_differing([run for setting in settings for run in setting.runs])
    found = []
    for setting in settings:
        if baseline.holds(setting):
            found.append(Comparison(None, is_baseline=True, times=1.0))
            continue
        other, notes = partner(setting, settings, baseline, keys)
        if other is None:
            found.append(Comparison(None, notes=tuple(notes)))
            continue
        pairs, more = paired(setting, other, split, known)
        made = None
        if pairs:
            scores = np.array([a.scores[split] - b.scores[split] for a, b in pairs])
            rows = known[pairs[0][0].folder]
            if rows is None or any(known[run.folder] is None for pair in pairs for run in pair):
                made = difference(scores, np.tile(scores, (draws, 1)), 0)
                more.append(f"no {scored.FILE} with the rows of this score: only seeds are drawn")
            else:
                drawn_pairs = [columns[a.folder] - columns[b.folder] for a, b in pairs]
                made = difference(scores, np.stack(drawn_pairs, axis=1), rows.size)
        found.append(Comparison(made, times=setting.seconds() / other.seconds(), notes=(*notes, *more)))
    corrected = holm({str(i): one.of.p for i, one in enumerate(found) if one.of is not None})
    return [dataclasses.replace(one, holm=corrected.get(str(i), math.nan)) for i, one in enumerate(found)]


def paired(
    setting: Setting, other: Setting, split: str, known: Mapping[Any, Rows | None]
) -> tuple[list[tuple[Finished, Finished]], list[str]]:
    """The pairs of runs with the same seed that were scored on the same rows, and remarks on the others."""
    notes = []
    ours = {run.seed: run for run in reversed(setting.runs) if split in run.scores}
    theirs = {run.seed: run for run in reversed(other.runs) if split in run.scores}
    if alone := sorted(ours.keys() ^ theirs.keys()):
        notes.append(f"not paired: seed {', '.join(map(str, alone))}")
    pairs = [(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]
    drawable = [(known[a.folder], known[b.folder]) for a, b in pairs]
    same = [a is None or b is None or a.identity == b.identity for a, b in drawable]
    if not all(same):
        odd = [str(a.seed) for (a, _), kept in zip(pairs, same, strict=True) if not kept]
        notes.append(f"scored on other rows than the baseline: seed {', '.join(odd)}")
        pairs = [pair for pair, kept in zip(pairs, same, strict=True) if kept]
    if len(pairs) == 1:
        notes.append("one seed: what another seed would give is not in the interval")
    elif 1 < len(pairs) < FEW:
        notes.append(f"{len(pairs)} seeds: the interval may be too narrow")
    return pairs, notes
