"""What each value of the config may be: its type and its range, checked on the whole config once everything in it is resolved.

A method, a term or an engine checks its own numbers further (a share of the teacher lies in [0, 1]); here they are numbers at
all, finite ones. Keys without a row, as those of your own class, may hold anything but NaN, inf and control characters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rwkd_lightning.cli.keys import interpolated, shown
from rwkd_lightning.utils.errors import UserError

T = TypeVar("T")


class Kind(NamedTuple):
    """What a value may be, in words and as a test."""

    words: str
    fits: Callable[[Any], bool]


def whole(low: int, high: int = 10**6) -> Kind:
    """A whole number: 16, and not 16.0, which torch takes for none."""
    return Kind(f"a whole number from {low:,} to {high:,}", lambda x: type(x) is int and low <= x <= high)


def number(words: str = "a finite number", fits: Callable[[float], bool] = lambda x: True) -> Kind:
    """A finite number that float32 can hold."""
    return Kind(words, lambda x: type(x) in (int, float) and abs(x) <= 1e30 and fits(x))


def one_of(*names: Any) -> Kind:
    """One of these, and of the same type."""
    return Kind(f"one of {', '.join(map(shown, names))}", lambda x: any(type(x) is type(name) and x == name for name in names))


def several(kind: Kind, least: int = 1) -> Kind:
    """A list."""
    return Kind(f"a list of {least} or more, each {kind.words}",
                lambda x: isinstance(x, list) and len(x) >= least and all(map(kind.fits, x)))


def or_null(kind: Kind) -> Kind:
    """Or nothing at all."""
    return Kind(f"{kind.words}, or null", lambda x: x is None or kind.fits(x))


def either(one: Kind, other: Kind) -> Kind:
    """One of two kinds."""
    return Kind(f"{one.words}, or {other.words}", lambda x: one.fits(x) or other.fits(x))


TEXT = Kind("a text", lambda x: isinstance(x, str) and x != "")
PATH = Kind("a path (./3 for one that is called 3)", TEXT.fits)
YES_NO = Kind("true or false", lambda x: isinstance(x, bool))
NAMES = Kind("a list of names, each once", lambda x: several(TEXT).fits(x) and len(set(x)) == len(x))
SEED = whole(0, 2**32 - 1)
COUNT = whole(1)
RATE = number("a number above 0", lambda x: x > 0)
SHARE = number("a number from 0 up to, but not including, 1", lambda x: 0 <= x < 1)
ALPHA = number("a number from 0 to 1", lambda x: 0 <= x <= 1)
BETAS = Kind("two numbers from 0 up to, but not including, 1: [0.9, 0.999]",
             lambda x: several(SHARE, 2).fits(x) and len(x) == 2)
AMOUNT = number("a number, 0 or above", lambda x: x >= 0)
PRECISION = Kind("32-true or bf16-mixed", lambda x: (type(x) is int and x == 32) or TEXT.fits(x))
BLOCKS = or_null(several(whole(0)))
GROUP = Kind("a group of keys", lambda x: isinstance(x, dict))
ANY = Kind("anything", lambda x: True)

NEEDED: dict[str, Kind] = {
    "seed": SEED, "force": YES_NO, "terms": NAMES, "alpha": ALPHA, "temperature": RATE, "cache_dir": PATH, "runs_dir": PATH,
    "weighting_name": TEXT, "weighting": GROUP, "loss_terms": GROUP,
    "data.path": or_null(PATH), "data.batch_size": COUNT, "data.eval_batch_size": COUNT, "data.num_workers": whole(0, 256),
    "data.meta_fraction": number("a number above 0 and up to 0.5", lambda x: 0 < x <= 0.5), "data.split_seed": SEED,
    "data.teacher_noise": SHARE,
    "checkpoint.minutes": or_null(RATE), "checkpoint.steps": or_null(COUNT),
    "optimizer": GROUP, "optimizer.lr": RATE, "scheduler": GROUP, "logger": GROUP, "callbacks": GROUP,
    "task.system": GROUP, "task.system._target_": TEXT, "task.load": GROUP, "task.epochs": COUNT, "task.teacher_epochs": whole(0),
    "task.terms": NAMES, "task.meta_terms.hard": NAMES, "task.meta_terms.soft": NAMES,
    "pair.teacher.epochs": whole(0), "pair.teacher.lr": RATE, "pair.teacher.batch_size": COUNT, "pair.teacher.seed": SEED,
    "pair.teacher.precision": PRECISION,
    "meta.engine": GROUP, "meta.theta": GROUP, "meta.batch_size": COUNT, "meta.lookahead_lr": or_null(RATE), "meta.every": COUNT,
    "meta.start": SHARE, "meta.weights": one_of("new", "current"), "meta.loss": one_of("hard", "soft", "mix"),
    "trainer.max_epochs": or_null(COUNT),
    "trainer.max_steps": Kind("a whole number of 1 or more, or -1 for no limit", lambda x: x == -1 or whole(1, 10**9).fits(x)),
    "trainer.accelerator": TEXT, "trainer.devices": either(TEXT, either(whole(-1), several(whole(0)))), "trainer.strategy": TEXT,
    "trainer.precision": PRECISION, "trainer.log_every_n_steps": whole(0), "trainer.clip": or_null(RATE),
    "trainer.accumulate": COUNT, "trainer.select": one_of("last", "best"),
}
"""Keys that every run has."""

SYSTEMS: dict[str, dict[str, Kind]] = {
    "text": {
        "data.max_length": COUNT, "data.leaderboard": YES_NO, "data.label_noise": SHARE, "data.meta_noise": SHARE,
        "task.regression": YES_NO,
        "pair.teacher.path": PATH, "pair.teacher.warmup": SHARE, "pair.teacher.weight_decay": AMOUNT,
        "pair.teacher.new_head": YES_NO, "pair.teacher.labels": or_null(NAMES),
        "pair.student.path": PATH, "pair.student.layers": BLOCKS, "pair.student.new_head": YES_NO,
    },
    "topics": {
        "task.regression": or_null(YES_NO),
        "topics": whole(2, 10_000), "distillation": one_of("none", "ce", "w2", "full"), "settings": TEXT,
        "data.test_fraction": number("a number from 0 to 0.5", lambda x: 0 <= x <= 0.5),
        "pair.teacher.encoder": PATH, "pair.teacher.layers": whole(0, 100), "pair.teacher.bag_of_words": YES_NO,
        "pair.teacher.normalised": YES_NO,
        "pair.teacher.betas": BETAS, "pair.student.encoder": PATH, "pair.student.layers": whole(0, 100),
        "pair.student.bag_of_words": YES_NO,
    },
}
"""Keys that every run of a system has beyond these."""

OPTIONAL: dict[str, Kind] = {
    "pair.blocks": GROUP, "pair.blocks.*": BLOCKS,
    "task.load.task": TEXT, "task.load.path": or_null(PATH), "task.load.split_seed": SEED,
    "task.load.sizes": or_null(GROUP), "task.load.sizes.*": whole(1, 10**9), "task.load.meta_fraction": number(),
    "task.load.leaderboard": YES_NO,
    "task.load.text_column": or_null(TEXT), "task.load.label_column": or_null(TEXT), "task.load.min_documents": or_null(COUNT),
    "task.load.max_share": or_null(number("a number above 0 and up to 1", lambda x: 0 < x <= 1)),
    "task.load.delimiter": or_null(Kind("a single character", lambda x: isinstance(x, str) and len(x) == 1)),
    "task.load.tokenizer": or_null(either(TEXT, GROUP)), "task.load.stop_words": or_null(TEXT),
    "task.load.token_pattern": or_null(TEXT), "task.load.min_letters": or_null(whole(1, 100)),
    "task.load.max_words": or_null(whole(2)), "task.load.documents": or_null(COUNT), "task.load.seed": or_null(SEED),
    "task.distillations": GROUP, "task.distillations.*": NAMES, "task.published.*.alpha": ALPHA,
    "task.published.*.temperature": RATE, "task.published.*.layers": whole(0, 100), "task.published*": GROUP,
    "meta.engine.radius": RATE, "meta.engine.central": YES_NO, "meta.theta.centre": YES_NO,
    **{f"{group}.{key}": kind for group in ("weighting", "meta_features", "loss_terms") for key, kind in {
        "*terms": NAMES, "*regression": or_null(YES_NO), "*temperature": RATE, "*lr": RATE, "*hidden.pool": TEXT,
        "*stage_one": number(), "*heads": whole(1), "*_layer": or_null(whole(0)),
    }.items()},
    "loss_terms.hidden.layers": either(TEXT, several(several(whole(0)))),
    **{f"weighting.{key}": kind for prefix in ("", "inner.") for key, kind in {
        f"{prefix}hidden": whole(1, 100_000), f"{prefix}window": COUNT, f"{prefix}gate.bound": or_null(RATE),
        **{f"{prefix}{key}": number() for key in ("alpha", "beta", "entropy", "evidence", "smoothing", "delta", "asymmetry")},
    }.items()},
    "optimizer.weight_decay": AMOUNT, "optimizer.betas": BETAS, "scheduler.warmup": SHARE,
    "*_partial_": Kind("true", lambda x: x is True),
    "logger.save_dir": PATH, "logger.name": TEXT, "logger.project": TEXT, "logger.experiment_name": TEXT,
    "logger.offline": YES_NO, "logger.default_hp_metric": YES_NO,
    **{f"callbacks.{key}": kind for key, kind in {
        "early_stopping.monitor": or_null(TEXT), "early_stopping.mode": one_of("min", "max"),
        "early_stopping.patience": whole(0), "early_stopping.min_delta": AMOUNT, "early_stopping.check_*": YES_NO,
        "model_summary.max_depth": whole(-1), "lr_monitor.logging_interval": or_null(one_of("step", "epoch")),
    }.items()},
    "weighting.features": GROUP, "weighting.gate": or_null(GROUP), "weighting.inner": GROUP, "*_target_": TEXT,
}
"""Keys that some options have; the first pattern that fits counts."""


def check(config: DictConfig) -> None:
    """Check every value of a composed config.

    Raises:
        UserError: for a value of another type or out of range, one that cannot be resolved, and a key that is missing.
    """
    try:
        plain: Any = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "the config"
        raise UserError(f"{key} cannot be resolved ({first_line(error)}); look at its ${{...}}") from error
    plain.pop("hydra", None)
    given = dict(leaves(plain))
    if not isinstance(given.get("task.system"), dict):
        raise UserError(f"task.system is {brief(given.get('task.system'))}; give task.system._target_=my_package.MySystem")
    named = [name for name in SYSTEMS if f".systems.{name}." in str(given.get("task.system._target_"))]
    system = SYSTEMS[named[0]] if named else {}
    if any(given.get(key, 0) is None for key in PUBLISHED) and "task.published" in given:
        raise UserError(unpublished(config))
    for key in (*system, *given):  # the system's own first: others may be computed from them
        if key in given:
            check_value(key, given[key], system.get(key) or kind_of(key))
    for key in (*NEEDED, *system):
        group = key.partition(".")[0]
        if key not in given and key in system and group in ("pair", "data"):
            raise UserError(f"{key} is missing; the chosen option of {group}= is not for this task (or a ~ or a group of your "
                            f"own took it away): leave {group}= out")
        if key not in given:
            raise UserError(f"{key} is missing; every run needs it (a ~ on the command line or a group of your own took it away)")


PUBLISHED = ("alpha", "temperature", "pair.teacher.layers")


def unpublished(config: DictConfig) -> str:
    """The message for a corpus or a number of topics without published settings."""
    known = [f"settings={name} topics={','.join(by_k)}" for name, by_k in config.task.published.items()]
    return (f"settings={config.settings} topics={config.topics} has no published α, T and depth of the teacher; known are "
            f"{' and '.join(known)}; or give alpha=0.5 temperature=2.0 pair.teacher.layers=2 yourself")


def kind_of(key: str) -> Kind:
    """What the value of a key may be, in one system or another."""
    if key.startswith("loss_terms.") and key.count(".") == 1:
        return GROUP
    kinds = [system[key] for system in SYSTEMS.values() if key in system]
    if kinds:
        return kinds[0] if len(kinds) == 1 else either(*kinds)
    return NEEDED.get(key) or next((kind for name, kind in OPTIONAL.items() if fnmatchcase(key, name)), ANY)


def check_literal(key: str, value: Any) -> None:
    """Check one value of a command line, unless it is computed from others; UserError as ``check`` raises."""
    if not interpolated(value) and kind_of(key) is not GROUP:
        check_value(key, value, kind_of(key))


def check_value(key: str, value: Any, kind: Kind) -> None:
    """Check one value; UserError where it is of another kind."""
    if value == "???":
        raise UserError(f"{key} has no value yet; give {key}=..., {kind.words}")
    for text in inside(value, str):
        if any(ord(c) < 32 or ord(c) == 127 for c in text):
            raise UserError(f"{key}={text!r} holds a control character; leave it out")
    if any(not math.isfinite(x) for x in inside(value, float)):
        raise UserError(f"{key}={shown(value)} is not finite; give {kind.words if kind is not ANY else 'a finite number'}")
    if not kind.fits(value):
        if isinstance(value, float) and value.is_integer() and kind.fits(int(value)):
            raise UserError(f"{key}={value} is written as a fraction; write {key}={int(value)}")
        raise UserError(f"{key} is {brief(value)}; give {kind.words}")


def leaves(node: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All keys, dotted, with their values, groups among them; of groups within a list too.

    Raises:
        UserError: for a key that is no text.
    """
    for name, value in node.items():
        if not isinstance(name, str) or not name.isprintable():
            raise UserError(f"{prefix}{name!r} is no name for a key; give a text")
        yield f"{prefix}{name}", value
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, dict):
                yield from leaves(inner, f"{prefix}{name}.")


def inside(value: Any, kind: type[T]) -> Iterator[T]:
    """What is of this type in a value, lists within lists included."""
    if isinstance(value, kind):
        yield value
    elif isinstance(value, list):
        for inner in value:
            yield from inside(inner, kind)


def brief(value: Any) -> str:
    """A value for a message."""
    text = repr(value) if isinstance(value, str) else shown(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def first_line(error: BaseException) -> str:
    """What an error says first."""
    return (str(error).splitlines() or [type(error).__name__])[0]
