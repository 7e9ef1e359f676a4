"""The type and the range of each value of the config, checked on the whole config once everything in it is resolved.

A method, a term or an engine checks its own numbers further (a share of the teacher lies in [0, 1]); here they are
numbers at all, finite ones. Keys without a row, as those of your own class, may hold anything but NaN, inf and control
characters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from importlib import import_module
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rwkd_lightning import systems
from rwkd_lightning.cli.kinds import (
    ALPHA,
    AMOUNT,
    ANY,
    BETAS,
    COUNT,
    GROUP,
    NAMES,
    PATH,
    PRECISION,
    RATE,
    SEED,
    SHARE,
    SPLITS,
    TEACHER,
    TEXT,
    YES_NO,
    Kind,
    Schema,
    brief,
    check_value,
    either,
    first_line,
    number,
    one_of,
    or_null,
    several,
    whole,
)
from rwkd_lightning.utils.errors import UserError

NEEDED: dict[str, Kind] = {
    "seed": SEED,
    "force": YES_NO,
    "terms": NAMES,
    "alpha": ALPHA,
    "cache_dir": PATH,
    "runs_dir": PATH,
    "weighting_name": TEXT,
    "weighting": GROUP,
    "loss_terms": GROUP,
    "data.batch_size": COUNT,
    "data.eval_batch_size": COUNT,
    "data.num_workers": whole(0, 256),
    "checkpoint.minutes": or_null(RATE),
    "checkpoint.steps": or_null(COUNT),
    "optimizer": GROUP,
    "optimizer.lr": RATE,
    "scheduler": GROUP,
    "logger": GROUP,
    "callbacks": GROUP,
    "task.system": GROUP,
    "task.system._target_": TEXT,
    "task.load": GROUP,
    "task.epochs": COUNT,
    "task.terms": NAMES,
    "task.meta_terms.hard": NAMES,
    "task.meta_terms.soft": NAMES,
    "meta.engine": GROUP,
    "meta.theta": GROUP,
    "meta.batch_size": COUNT,
    "meta.lookahead_lr": or_null(RATE),
    "meta.every": COUNT,
    "meta.start": SHARE,
    "meta.weights": one_of("new", "current"),
    "meta.loss": one_of("hard", "soft", "mix"),
    "trainer.max_epochs": or_null(COUNT),
    "trainer.max_steps": Kind(
        "a whole number of 1 or more, or -1 for no limit", lambda x: x == -1 or whole(1, 10**9).fits(x)
    ),
    "trainer.accelerator": TEXT,
    "trainer.devices": either(TEXT, either(whole(-1), several(whole(0)))),
    "trainer.strategy": TEXT,
    "trainer.precision": PRECISION,
    "trainer.matmul": one_of("highest", "high", "medium"),
    "trainer.compile": YES_NO,
    "trainer.log_every_n_steps": whole(0),
    "trainer.clip": or_null(RATE),
    "trainer.accumulate": COUNT,
    "trainer.select": one_of("last", "best"),
}
"""Keys that every run has."""

OPTIONAL: dict[str, Kind] = {
    "optimizer.weight_decay": AMOUNT,
    "optimizer.betas": BETAS,
    "scheduler.warmup": SHARE,
    "*_partial_": Kind("true", lambda x: x is True),
    "logger.save_dir": PATH,
    "logger.name": TEXT,
    "logger.project": TEXT,
    "logger.experiment_name": TEXT,
    "logger.offline": YES_NO,
    "logger.default_hp_metric": YES_NO,
    **{
        f"callbacks.{key}": kind
        for key, kind in {
            "early_stopping.monitor": or_null(TEXT),
            "early_stopping.mode": one_of("min", "max"),
            "early_stopping.patience": whole(0),
            "early_stopping.min_delta": AMOUNT,
            "early_stopping.check_*": YES_NO,
            "pruning.monitor": or_null(TEXT),
            "model_summary.max_depth": whole(-1),
            "lr_monitor.logging_interval": or_null(one_of("step", "epoch")),
        }.items()
    },
    "task.load.path": or_null(PATH),
    "task.load.split_seed": SEED,
    **TEACHER,
    **SPLITS,
    "meta.engine.radius": RATE,
    "meta.engine.central": YES_NO,
    "meta.theta.centre": YES_NO,
    **{
        f"{group}.{key}": kind
        for group in ("weighting", "meta_features", "loss_terms")
        for key, kind in {
            "*terms": NAMES,
            "*regression": or_null(YES_NO),
            "*temperature": RATE,
            "*lr": RATE,
            "*stage_one": number(),
        }.items()
    },
    **{
        f"weighting.{key}": kind
        for prefix in ("", "inner.")
        for key, kind in {
            f"{prefix}hidden": whole(1, 100_000),
            f"{prefix}window": COUNT,
            f"{prefix}tau": RATE,
            f"{prefix}most": RATE,
            f"{prefix}gate.bound": or_null(RATE),
            **{
                f"{prefix}{key}": number()
                for key in ("alpha", "beta", "entropy", "evidence", "smoothing", "delta", "asymmetry")
            },
        }.items()
    },
    "weighting.features": GROUP,
    "weighting.gate": or_null(GROUP),
    "weighting.inner": GROUP,
    "*_target_": TEXT,
}
"""Keys that some options have, of whatever system; the first pattern that fits counts."""


def schema_of(task: Mapping[str, Any]) -> Schema:
    """The keys of a task's system: `SCHEMA` of the module ``schema`` beside it, or its attribute ``schema``.

    Args:
        task: the config's group, resolved.

    Raises:
        UserError: if there is no such system.
    """
    system = task.get("system")
    target = system.get("_target_") if isinstance(system, Mapping) else None
    if not isinstance(target, str):
        raise UserError(f"task.system is {brief(system)}; give task.system._target_=MODULE.CLASS")
    beside = f"{target.rpartition('.')[0].rpartition('.')[0]}.schema"
    try:
        found = (
            import_module(beside).SCHEMA
            if beside.startswith(f"{systems.__name__}.")
            else getattr(get_class(target), "schema", Schema())
        )
    except Exception as error:  # whatever a module of one's own raises when it is imported
        raise UserError(
            f"task.system._target_={target} cannot be imported ({first_line(error)}); give MODULE.CLASS"
        ) from error
    if not isinstance(found, Schema):
        raise UserError(f"task.system._target_={target}: its schema is a {type(found).__name__}, and no Schema")
    return found


def check(config: DictConfig) -> dict[str, Any]:
    """Check every value of a composed config; returns all keys with their values, resolved.

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
    check_value("task", given.get("task"), GROUP)
    schema = schema_of(given["task"])
    for of_system in schema.checks:
        of_system(given)
    for key in (*schema.needed, *given):  # the system's own first: others may be computed from them
        if key in given:
            check_value(key, given[key], kind_of(key, schema))
    for key in (*NEEDED, *schema.needed):
        group = key.partition(".")[0]
        if key not in given and key in schema.needed and group in ("pair", "data"):
            raise UserError(
                f"{key} is missing; the chosen option of {group}= is not for this task (or a ~ or a group of your "
                f"own took it away): leave {group}= out"
            )
        if key not in given:
            raise UserError(
                f"{key} is missing; every run needs it (a ~ on the command line or a group of your own took it away)"
            )
    return given


def kind_of(key: str, schema: Schema) -> Kind:
    """The kind of a key's value in a run of a system."""
    if key.startswith("loss_terms.") and key.count(".") == 1:
        return GROUP
    for exact in (schema.needed, NEEDED):
        if key in exact:
            return exact[key]
    patterns = (*schema.optional.items(), *OPTIONAL.items())
    return next((kind for pattern, kind in patterns if fnmatchcase(key, pattern)), ANY)


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
