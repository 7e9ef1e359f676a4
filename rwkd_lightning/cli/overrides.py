"""Misspelt options, keys and values of the command line, told in one line before anything runs.

Hydra finds most of these too, but without the word that was meant, a sweep's only when their turn comes, and wrong types never.
Whatever is unclear here is left to Hydra.
"""

from __future__ import annotations

import argparse
import difflib
import itertools
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from rwkd_lightning.cli import help as usage
from rwkd_lightning.cli import run_folder as whole
from rwkd_lightning.cli import tuning
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
from rwkd_lightning.cli.sweeps import ENOUGH, combinations, expanded, of_interval
from rwkd_lightning.cli.typed import put_right
from rwkd_lightning.utils.errors import UserError

ANYTHING = ("trainer.devices", "loss_terms.hidden.layers")  # a text or a list


class Composed(NamedTuple):
    """A config without the values of the command line, nothing resolved, and the options that were chosen for it."""

    config: dict[str, Any]
    choices: dict[str, str]


def check(arguments: Sequence[str], conf: Path) -> None:
    """Check a command line for the configs in ``conf``.

    Raises:
        UserError: for an option, a key or a value that cannot be right, with the nearest one that can.
    """
    try:
        parsed, overrides = read(arguments)
    except Unreadable as error:
        raise UserError(f"the command line cannot be read ({error}); {remedy(arguments, conf)}") from None
    examine(parsed, overrides, conf)


def remedy(arguments: Sequence[str], conf: Path) -> str:
    """What to write instead: the whole command where it is clear, or else how a setting is written."""
    words, done = put_right(arguments, Parser().flags)
    if done:
        try:
            examine(*read(words), conf)
            command = f"python train.py {shlex.join(words)}"
            return f"{', '.join(done)}{f': {command}' if len(command) < 1200 else ''}"  # of a long message the middle is left out
        except UserError as error:
            return f"{', '.join(done)}; and then, {error}"
        except Unreadable:
            pass
    return ("write KEY=VALUE, and put quotes around a text with blanks, commas or brackets: KEY=\"'a text'\"; "
            "python train.py --hydra-help shows Hydra's options")


def examine(parsed: argparse.Namespace, overrides: Sequence[Override], conf: Path) -> None:
    """Check a command line that could be read.

    Raises:
        UserError: as ``check`` does.
    """
    at_once = [name for name in ("run", "multirun", "cfg", "info", "shell_completion") if getattr(parsed, name)]
    if len(at_once) > 1:
        raise UserError(f"--{at_once[0]} and --{at_once[1]} do not go together; leave out one of them".replace("_", "-"))
    if parsed.info or parsed.hydra_help or parsed.version or parsed.shell_completion or parsed.experimental_rerun:
        return
    sweep = parsed.multirun or any(override.key_or_group == "hydra.mode" for override in overrides)
    tuning.prepare(overrides, sweep)
    if parsed.config_dir or parsed.config_path or parsed.config_name:
        return  # other configs, other keys
    inspect(overrides, conf)
    if any(override.key_or_group == "hydra.searchpath" for override in overrides):  # other configs too
        return
    if not sweep and (swept := next((o for o in overrides if o.is_sweep_override()), None)):
        raise UserError(f"{swept.input_line} asks for several runs: put -m first, as in python train.py -m {swept.input_line}; a "
                        "list has brackets: [1,2]")
    whole.check(overrides, conf, sweep)


def inspect(overrides: Sequence[Override], conf: Path) -> None:
    """Check what Hydra's parser made of the command line.

    Raises:
        UserError: as ``check`` does.
    """
    if any(override.key_or_group == "hydra.searchpath" for override in overrides):
        return
    overrides = [override for override in overrides if not override.is_hydra_override()]
    groups = usage.groups(conf)
    structural = [o for o in overrides if o.package is not None
                  or (o.key_or_group.split("/")[0] in groups and not isinstance(o.value(), dict))]
    for override in overrides:
        if not override.key_or_group:
            raise UserError(f"{override.input_line} names no key; write KEY=VALUE")
    for override in structural:
        check_option(override, conf, any(o.is_delete() for o in structural))
    for override in overrides:
        check_misspelt_group(override, conf)
    added = [o.key_or_group for o in overrides if o not in structural and (o.is_add() or o.is_force_add())]
    settings = [o for o in overrides if o not in structural
                and not (o.is_add() or o.is_force_add() or o.is_delete() or related(o.key_or_group, added))]
    if not settings:
        return
    values = [(value, setting) for setting in settings for value in expanded(setting, conf)]
    # of a group none of whose keys is set, one option stands for all; experiments, which are no default, may change any key
    fixed = set(usage.defaults(conf)) - {"task", *(setting.key_or_group.split(".")[0] for setting in settings)}
    swept = [list(itertools.islice(expanded(o, conf), 1 if o.key_or_group in fixed else ENOUGH)) for o in structural]
    with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        for chosen in combinations(swept):
            composed = composition(chosen)
            if composed is None:
                return
            for value, setting in values:
                with of_interval(setting):
                    check_value(value, composed, chosen, conf)


def related(key: str, added: Sequence[str]) -> bool:
    """Whether a key is, holds or is part of one that the command line adds."""
    return any(f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.") for other in added)


def composition(chosen: Sequence[Override], *more: str) -> Composed | None:
    """The config for these options; None where Hydra has an objection, which it will tell itself."""
    try:
        config = compose("config", [*(o.input_line or "" for o in chosen), *more], return_hydra_config=True)
        plain: Any = OmegaConf.to_container(config, resolve=False)
    except Exception:  # whatever it is, Hydra meets it again when it composes the run, and stops there
        return None
    return Composed({k: v for k, v in plain.items() if k != "hydra"}, plain["hydra"]["runtime"]["choices"])


def check_option(override: Override, conf: Path, with_deletions: bool) -> None:
    """Check the option of a group, each of them in a sweep.

    Raises:
        UserError: if there is no such option, or a ``+`` is missing or too many.
    """
    group = override.key_or_group
    if override.is_delete() or override.is_force_add() or override.package is not None or not (conf / group).is_dir():
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
        raise UserError(f"{override.input_line} is not a choice; did you mean +{near[0]}={value}? "
                        f"(+{override.input_line} adds a new key)")


def check_value(override: Override, composed: Composed, chosen: Sequence[Override], conf: Path) -> None:
    """Check one key and its value.

    Raises:
        UserError: if there is no such key, or its default is of another kind than the value.
    """
    values = {override.key_or_group: override.value()}
    while values:
        key, value = values.popitem()
        try:
            default = followed(composed.config, lookup(composed.config, key))
        except Unclear:
            continue
        except Missing:
            raise UserError(unknown(key, composed, chosen, conf)) from None
        if isinstance(default, dict) and isinstance(value, dict):
            values |= {f"{key}.{name}": inner for name, inner in value.items()}
        elif isinstance(default, dict) and value is not None and not interpolated(value):
            group = key.replace(".", "/")
            if (conf / group).is_dir():
                raise UserError(f"{key}={shown(value)} would replace all keys below it; to choose an option write "
                                f"{group}={shown(value)}")
            names = ", ".join(f"{key}.{name}" for name in default)
            raise UserError(f"{key}={shown(value)} would replace all keys below it; set one of {names}")
        elif key not in ANYTHING and (expected := objection(default, value)):
            raise UserError(f"{key}={shown(value)} is not {expected}; the default is {shown(default)}")


def unknown(key: str, composed: Composed, chosen: Sequence[Override], conf: Path) -> str:
    """The message for a key that is not there."""
    group, known = key.split(".")[0], list(paths(composed.config))
    near = siblings(key, known)
    matters = "." in key and group in composed.choices and len(usage.options(conf, group)) > 1
    choice = f" with {group}={composed.choices[group]}" if matters else ""
    having: list[str] = []
    if choice and not near:
        kept = [o for o in chosen if o.key_or_group != group]
        having = [f"{group}={name}" for name in usage.options(conf, group) if has(composition(kept, f"{group}={name}"), key)]
    near = near or elsewhere(key, known)
    hint = f"; {' and '.join(having)} would have it" if having else f"; did you mean {near}?" if near else ""
    tail = "hands it to lightning.Trainer" if group == "trainer" else "adds a new one"
    return f"{key} is not a key{choice}{hint} (+{key}=... {tail})"


def has(composed: Composed | None, key: str) -> bool:
    """Whether a config has a key."""
    return composed is not None and key in paths(composed.config)
