"""Misspelt options, keys and values of the command line, reported in one line before anything runs.

Hydra finds most of these too, but without the word that was meant, a sweep's only when their turn comes, and wrong
types never. Whatever is unclear here is left to Hydra.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra import initialize_config_dir
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from rwkd_lightning.cli import help as usage
from rwkd_lightning.cli import schema, tuning
from rwkd_lightning.cli.composition import Composed, Configs
from rwkd_lightning.cli.flags import Parser, Unreadable, read
from rwkd_lightning.cli.keys import (
    Missing,
    Unclear,
    elsewhere,
    followed,
    interpolated,
    lookup,
    objection,
    paths,
    shown,
    siblings,
)
from rwkd_lightning.cli.run_folder import check_folder
from rwkd_lightning.cli.sweeps import Job, check_launcher, expanded, jobs, of_interval
from rwkd_lightning.cli.typed import put_right
from rwkd_lightning.cli.words import config_words
from rwkd_lightning.utils.errors import UserError

ANYTHING = (  # a text, or a list or a mapping
    "trainer.devices",
    "loss_terms.hidden.layers",
    "pair.teacher.path",
    "data.label",
)
MODELS = re.compile(r"(pair\.(?:teacher|student))=(?!\{)(?=.)")
"""A model that is given by its path alone."""
MOVED = {"optimizer.warmup": "scheduler.warmup"}
"""Keys of earlier versions, and what they are called now."""


def written_out(arguments: Sequence[str]) -> list[str]:
    """The command line with ``pair.teacher=PATH`` as ``pair.teacher.path=PATH``, and the student's alike."""
    return [MODELS.sub(r"\1.path=", word, count=1) if MODELS.match(word) else word for word in arguments]


def check(arguments: Sequence[str], conf: Path) -> None:
    """Check a command line for the configs in ``conf``.

    Raises:
        UserError: for an option, a key or a value that cannot be right, with the nearest one that can.
    """
    try:
        parsed, overrides = read(written_out(arguments))
    except Unreadable as error:
        raise UserError(f"the command line cannot be read ({error}); {remedy(arguments, conf)}") from None
    examine(parsed, overrides, conf)


def remedy(arguments: Sequence[str], conf: Path) -> str:
    """The way out: the whole command where it is clear, or else how a setting is written."""
    words, done = put_right(arguments, Parser().flags)
    if done:
        try:
            examine(*read(words), conf)
            command = f"python train.py {shlex.join(words)}"
            return (  # of a long message the middle is left out
                f"{', '.join(done)}{f': {command}' if len(command) < 1200 else ''}"
            )
        except UserError as error:
            return f"{', '.join(done)}; and then, {error}"
        except Unreadable:
            pass
    return (
        "write KEY=VALUE, and put quotes around a text with blanks, commas or brackets: KEY=\"'a text'\"; "
        "python train.py --hydra-help shows Hydra's options"
    )


def examine(parsed: argparse.Namespace, overrides: Sequence[Override], conf: Path) -> None:
    """Check a command line that could be read.

    Raises:
        UserError: as ``check`` does.
    """
    at_once = [name for name in ("run", "multirun", "cfg", "info", "shell_completion") if getattr(parsed, name)]
    if len(at_once) > 1:
        raise UserError(
            f"--{at_once[0]} and --{at_once[1]} do not go together; leave out one of them".replace("_", "-")
        )
    if parsed.info or parsed.hydra_help or parsed.version or parsed.shell_completion or parsed.experimental_rerun:
        return
    sweep = parsed.multirun or any(override.key_or_group == "hydra.mode" for override in overrides)
    check_launcher(overrides)
    tuning.prepare(overrides, sweep)
    searchpath = any(override.key_or_group == "hydra.searchpath" for override in overrides)
    if parsed.config_path or parsed.config_name or searchpath:
        return  # other configs, other keys
    more = Path(parsed.config_dir) if parsed.config_dir else None
    if more is not None and not more.is_dir():
        raise UserError(f"--config-dir {more} is no directory; give one with configs, as task/NAME.yaml")
    with_deletions = any(override.is_delete() and (conf / override.key_or_group).is_dir() for override in overrides)
    for override in overrides if more is None else ():  # with options that are not in `conf`
        if override.is_hydra_override():
            continue  # plugins bring options of their own, as hydra/launcher=submitit_local
        check_option(override, conf, with_deletions)
        check_misspelt_group(override, conf)
    if not sweep and (swept := next((o for o in overrides if o.is_sweep_override()), None)):
        raise UserError(
            f"{swept.input_line} asks for several runs: put -m first, as in python train.py -m {swept.input_line}; a "
            "list has brackets: [1,2]"
        )
    with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        check_jobs(overrides, Configs(conf, more), ahead=sweep and not parsed.cfg)


def check_jobs(overrides: Sequence[Override], configs: Configs, ahead: bool) -> None:
    """Check the config of every job: one, or those of a sweep.

    Args:
        ahead: also build what a job builds before it reads its data, as the first one may run for hours before the last
            begins.

    Raises:
        UserError: for a key or a value that cannot be, and for those of a job that do not go together.
    """
    own = any(override.is_hydra_override() for override in overrides)
    looked_at: set[tuple[str, ...]] = set()
    distinct: dict[str, tuple[Job, Composed, list[Override]]] = {}
    for job in jobs([expanded(override, configs.conf) for override in overrides]):
        chosen = [o.input_line or "" for o in job if configs.is_choice(o)]
        settings = [o for o in job if not configs.is_choice(o)]
        composed = configs.composed(chosen)
        for override in job:
            check_added(override, chosen, configs)
        with of_interval(overrides):
            for setting in settings:
                if (line := (*chosen, setting.input_line or "")) not in looked_at:
                    check_value(setting, composed, chosen, configs)
                    looked_at.add(line)
            with composed.known():
                given = schema.check(composed.put(settings))
                check_folder(composed.put(settings, hydra=True), own)
        # paths and seeds change nothing that is built without data
        key = json.dumps(
            {k: v for k, v in given.items() if not isinstance(v, dict) and not k.endswith(("seed", "_dir", "path"))}
        )
        distinct.setdefault(key, (job, composed, settings))
    tuning.check_sweeper(composed.config.hydra.sweeper, overrides, configs.conf)
    swept = [override.key_or_group for override in overrides if override.is_sweep_override()]
    for job, composed, settings in distinct.values() if ahead else ():
        with composed.known(), of_job([o.input_line or "" for o in job if o.key_or_group in swept]):
            check_combination(composed.put(settings), composed.choices["task"])


@contextmanager
def of_job(settings: Sequence[str]) -> Iterator[None]:
    """Name the settings of the job that is refused."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}; that is of the job {' '.join(settings)}" if settings else str(error)) from error


def check_combination(config: DictConfig, task: str) -> None:
    """Build what a run builds before it reads its data; imports torch, which the run does too."""
    from rwkd_lightning.run import before

    with config_words():
        before.check_combination(config, task)


def check_option(override: Override, conf: Path, with_deletions: bool) -> None:
    """Check the option of a group, each of them in a sweep.

    Raises:
        UserError: if there is no such option, or a ``+`` is missing or too many.
    """
    group = override.key_or_group
    if not group:
        raise UserError(f"{override.input_line} names no key; write KEY=VALUE")
    if override.is_delete() or override.is_force_add() or override.package is not None or not (conf / group).is_dir():
        return
    if isinstance(override.value(), dict):  # values for the keys of the group
        return
    known, plus = list(usage.options(conf, group)), "+" if override.is_add() else ""
    for single in expanded(override, conf):
        value = single.value()
        for name in value if isinstance(value, list) else [value]:
            name = shown(name)
            if name.startswith("/") or ".." in name.split("/"):  # it would be part of the name of the run's folder
                raise UserError(f"{plus}{group}={name} leaves the folder of the group; known are {', '.join(known)}")
            if "/" in name or "${" in name or name.removesuffix(".yaml") in known:
                continue
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {plus}{group}={near[0]}? " if near else ""
            raise UserError(f"{plus}{group}={name} is not known; {hint}known are {', '.join(known)}")
    default = group in usage.defaults(conf) or "/" in group
    if override.is_add() and default and not with_deletions:
        raise UserError(f"{override.input_line} adds a second {group}; leave out the +")
    if not (override.is_add() or default):
        raise UserError(f"{override.input_line} needs a +: +{override.input_line}")


def check_misspelt_group(override: Override, conf: Path) -> None:
    """Check that what is added is not an option of a misspelt group, which would quietly do nothing.

    Raises:
        UserError: if the key is nearly a group and the value is one of the group's options.
    """
    groups, value = usage.groups(conf), override.value()
    if not override.is_add() or override.key_or_group in groups or not isinstance(value, str):
        return
    near = difflib.get_close_matches(override.key_or_group, groups, 1)
    if near and value in usage.options(conf, near[0]):
        raise UserError(
            f"{override.input_line} is not a choice; did you mean +{near[0]}={value}? "
            f"(+{override.input_line} adds a new key)"
        )


def check_added(override: Override, chosen: Sequence[str], configs: Configs) -> None:
    """Check that a key added at the root is not one of another place, where alone it would be read.

    Raises:
        UserError: naming that place.
    """
    key = override.key_or_group
    added = override.is_add() or override.is_force_add()
    if not added or "." in key or any((folder / key).is_dir() for folder in configs.folders):
        return
    known = list(paths(configs.composed([line for line in chosen if line != override.input_line]).plain))
    places = [other for other in known if other.rpartition(".")[2] == key]
    if places and key not in known:
        raise UserError(f"{override.input_line} adds a key that nothing reads; did you mean {places[0]}=...?")


def check_value(override: Override, composed: Composed, chosen: Sequence[str], configs: Configs) -> None:
    """Check one key and its value.

    Raises:
        UserError: if there is no such key, or its default is of another kind than the value.
    """
    values = {override.key_or_group: override.value()}
    while values:
        key, value = values.popitem()
        try:
            default = followed(composed.plain, lookup(composed.plain, key))
        except Unclear:
            continue
        except Missing:
            raise UserError(unknown(key, composed, chosen, configs)) from None
        if isinstance(default, dict) and isinstance(value, dict):
            values |= {f"{key}.{name}": inner for name, inner in value.items()}
        elif isinstance(default, dict) and value is not None and not interpolated(value):
            group = key.replace(".", "/")
            if (configs.conf / group).is_dir():
                raise UserError(
                    f"{key}={shown(value)} would replace all keys below it; to choose an option write "
                    f"{group}={shown(value)}"
                )
            outer = key.partition(".")[0]
            if f"{outer}@{key}" in composed.choices:
                raise UserError(
                    f"{key}={shown(value)} would replace all keys below it; to choose an option write "
                    f"{outer}@{key}={shown(value)}"
                )
            names = ", ".join(f"{key}.{name}" for name in default)
            raise UserError(f"{key}={shown(value)} would replace all keys below it; set one of {names}")
        elif key not in ANYTHING and (expected := objection(default, value)):
            raise UserError(f"{key}={shown(value)} is not {expected}; the default is {shown(default)}")


def unknown(key: str, composed: Composed, chosen: Sequence[str], configs: Configs) -> str:
    """The message for a key that is not there."""
    group, known = key.split(".")[0], list(paths(composed.plain))
    if MOVED.get(key) in known:
        return f"{key} is called {MOVED[key]} now; write {MOVED[key]}=..."
    near = siblings(key, known)
    matters = "." in key and group in composed.choices and len(usage.options(configs.conf, group)) > 1
    choice = f" with {group}={composed.choices[group]}" if matters else ""
    having: list[str] = []
    if choice and not near:
        kept = [line for line in chosen if not line.startswith(f"{group}=")]
        options = [f"{group}={name}" for name in usage.options(configs.conf, group)]
        having = [option for option in options if has(configs, [*kept, option], key)]
    near = near or elsewhere(key, known)
    hint = f"; {' and '.join(having)} would have it" if having else f"; did you mean {near}?" if near else ""
    tail = "hands it to lightning.Trainer" if group == "trainer" else "adds a new one"
    return f"{key} is not a key{choice}{hint} (+{key}=... {tail})"


def has(configs: Configs, chosen: Sequence[str], key: str) -> bool:
    """Whether the config of these choices has a key."""
    try:
        return key in paths(configs.composed(chosen).plain)
    except UserError:
        return False
