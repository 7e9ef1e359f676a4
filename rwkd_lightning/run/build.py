"""From the config's nodes to the pieces of a run, with every mistake told in the config's own words."""

from __future__ import annotations

import contextlib
import inspect
import tempfile
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rwkd_lightning.bilevel import Engine
from rwkd_lightning.cli.words import KEYS
from rwkd_lightning.meta import MetaStep, MetaStream, Restriction
from rwkd_lightning.run.callbacks import callbacks_of, kept_by_checkpoints, validates
from rwkd_lightning.run.create import Recipe
from rwkd_lightning.run.create import create as create
from rwkd_lightning.run.fit import quiet, refuse
from rwkd_lightning.run.identity import device_kind
from rwkd_lightning.run.loggers import logger_of
from rwkd_lightning.run.processes import processes
from rwkd_lightning.run.speed import check_compiles, check_engine
from rwkd_lightning.run.system import System
from rwkd_lightning.run.trainer_options import checked
from rwkd_lightning.terms import Term
from rwkd_lightning.training import compatibility
from rwkd_lightning.training.compatibility import check_loop, check_precision
from rwkd_lightning.utils import bars
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting import Weighting
from rwkd_lightning.weighting.columns import Columns


def system_of(config: DictConfig) -> System:
    """The system of the task, given the whole config.

    Raises:
        UserError: if ``task.system`` names none.
    """
    spec = config.task.system
    if not isinstance(spec, DictConfig) or "_target_" not in spec:
        raise UserError(f"task.system={spec!r} names no class; give task.system._target_=my_package.MySystem")
    try:
        kind = get_class(spec._target_)
    except Exception as error:  # whatever a module raises when it is imported
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"task.system._target_={spec._target_} cannot be imported ({reason})") from error
    if not issubclass(kind, System):
        raise UserError(f"task.system._target_={spec._target_} is no rwkd_lightning.run.system.System")
    system: System = kind(config)
    return system


def weighting_of(config: DictConfig) -> Weighting:
    """The weighting method, or the reason why not."""
    weighting: Weighting = create(config, "weighting", Weighting)
    return weighting


def terms_of(config: DictConfig) -> list[Term]:
    """The loss terms by name.

    Raises:
        UserError: also if two of them have one name.
    """
    terms = [term_of(config, name) for name in config.terms]
    Columns.of(terms)
    return terms


def check_terms(
    terms: Sequence[Term],
    config: DictConfig,
    provides: AbstractSet[str],
    weighting: Weighting,
    task: str,
) -> None:
    """Check that terms, weighting and task go together: ``compatibility.check_terms`` with what the config knows."""
    compatibility.check_terms(
        terms,
        provides,
        weighting,
        task=f"task={task}",
        own=config.task.terms,
        known=lambda: known_terms(config),
        accumulate=config.trainer.accumulate,
    )


def known_terms(config: DictConfig) -> list[Term]:
    """All terms that ``terms=`` could name; without those whose settings are wrong, which matters where one is
    chosen.
    """
    found = []
    for name in config.loss_terms:
        with contextlib.suppress(UserError):
            found.append(term_of(config, str(name)))
    return found


def term_of(config: DictConfig, name: str) -> Term:
    """One loss term, called as its key; ``NAME.3`` is part 3 of the term NAME, of one that has parts.

    Raises:
        UserError: if there is no such term.
    """
    whole, _, part = name.rpartition(".")
    if whole in config.loss_terms and part.isdecimal() and takes(config.loss_terms[whole].get("_target_"), "part"):
        one: Term = create(config, f"loss_terms.{whole}", Term, name=name, part=int(part))
        return one
    if name not in config.loss_terms:
        raise UserError(f"terms: {name!r} is not known; known are {', '.join(sorted(config.loss_terms))}")
    node = config.loss_terms[name]
    named = {"name": name} if "name" not in node and takes(node.get("_target_"), "name") else {}
    term: Term = create(config, f"loss_terms.{name}", Term, **named)
    if "name" not in node:
        term.name = name  # also of a class that does not ask for it
    return term


def takes(target: Any, argument: str) -> bool:
    """Whether a class, by its path, has an argument of this name."""
    try:
        return argument in inspect.signature(get_class(target)).parameters
    except Exception:  # ``create`` says it better
        return False


def meta_of(config: DictConfig, weighting: Weighting, stream: MetaStream) -> MetaStep | None:
    """The meta step on this run's meta split; None for a method that takes none."""
    if not weighting.needs_influence:
        return None
    hard, soft = config.task.meta_terms.hard, config.task.meta_terms.soft
    by_loss = {"hard": hard, "soft": soft, "mix": [*hard, *soft]}
    if config.meta.loss not in by_loss:
        raise UserError(f"meta.loss={config.meta.loss!r} is not known; known are {', '.join(by_loss)}")
    terms = [term_of(config, name) for name in by_loss[config.meta.loss]]
    return MetaStep(
        create(config, "meta.engine", Engine),
        create(config, "meta.theta", Restriction),
        terms,
        stream,
        config.meta.lookahead_lr,
        config.meta.every,
        config.meta.start,
    )


def check_settings(config: DictConfig, weighting: Weighting) -> None:
    """Raise UserError for what weighting and module would refuse themselves, but not before the teacher is trained."""
    if weighting.reads_columns and not any(OmegaConf.select(config, KEYS[name]) for name in weighting.reads_columns):
        weighting.prepare({})  # refuses a training set without any of them
    no_stream: Any = None  # nothing is held out yet, nor asked for
    meta = meta_of(config, weighting, no_stream)
    check_loop(weighting, meta, **loop_of(config))
    if config.trainer.compile:
        check_engine(meta)
        check_compiles(device_kind(str(config.trainer.accelerator)))


def loop_of(config: DictConfig) -> dict[str, Any]:
    """The settings of the training loop, for `DistillationModule`."""
    return {
        "updated_weights": config.meta.weights,
        "clip": config.trainer.clip,
        "accumulate": config.trainer.accumulate,
    }


def optimizer_of(config: DictConfig) -> Callable[[nn.Module], Optimizer]:
    """The maker of the student's optimizer: a class of torch's kind gets the trainable parameters, another the module.

    Raises:
        UserError: here and when it is called, for what makes no optimizer of these keys.
    """
    make = Recipe(config, "optimizer", Optimizer)
    if not isinstance(make.function, type):
        return make
    return lambda module: make([p for p in module.parameters() if p.requires_grad])


def schedule_of(config: DictConfig) -> Callable[[Optimizer, int], LRScheduler]:
    """The maker of the schedule, stepped once per student step; ``total_steps`` is given to what takes it.

    Raises:
        UserError: here and when it is called, for what makes no schedule of these keys.
    """
    make = Recipe(config, "scheduler", LRScheduler)
    if make.lacks("total_steps"):
        return lambda optimizer, total_steps: make(optimizer, total_steps=total_steps)
    return lambda optimizer, total_steps: make(optimizer)


def try_stepping(config: DictConfig) -> None:
    """Step optimizer and schedule on two small layers: the student's training, which may come hours later, must not
    refuse them.

    A function of the user's own may need the student's own modules, and is only checked for its arguments.

    Raises:
        UserError: for those that cannot be made, be stepped as the loop does, or be kept in a checkpoint.
    """
    with torch.random.fork_rng(devices=[]):
        layers = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer: Optimizer = torch.optim.AdamW(layers.parameters())
    own = Recipe(config, "optimizer", Optimizer)
    if isinstance(own.function, type) or own.function.__module__.startswith("rwkd_lightning."):
        optimizer = optimizer_of(config)(layers)
    else:
        own.bind(layers)
    schedule = schedule_of(config)(optimizer, 10)
    for key, stepped in (("optimizer", optimizer), ("scheduler", schedule)):
        for parameter in layers.parameters():
            parameter.grad = torch.zeros_like(parameter)
        try:
            stepped.step()
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"{key}: {config[key]._target_} cannot be stepped by itself, once per student step ({reason}); take "
                "another one"
            ) from error
        if not kept_by_checkpoints(stepped.state_dict()):
            raise UserError(
                f"{key}: the state of {config[key]._target_} holds more than numbers, texts and tensors, so that no "
                "interrupted run could go on with it"
            )


def trainer_of(config: DictConfig) -> dict[str, Any]:
    """Options for Lightning's Trainer; our own keys taken out.

    Raises:
        UserError: for options that the loop cannot run under, or that the Trainer refuses: asked now, not after the
            data is read. For a logger, callbacks, an optimizer or a schedule, too, that the student's training would
            refuse.
    """
    options: dict[str, Any] = OmegaConf.to_container(config.trainer, resolve=True)  # type: ignore[assignment]
    for ours in ("clip", "accumulate", "select", "matmul", "compile"):
        options.pop(ours)
    if config.trainer.select not in ("last", "best"):
        raise UserError(
            f"trainer.select={config.trainer.select!r}; known are 'last' (the last epoch's student) and 'best' "
            "(on the meta split)"
        )
    if options["max_epochs"] is None and options["max_steps"] == -1:
        raise UserError("trainer.max_epochs=null and trainer.max_steps=-1 would train without end; give one of them")
    callbacks = callbacks_of(config)
    with tempfile.TemporaryDirectory() as nowhere:  # some write as soon as they are made
        logger_of(config, Path(nowhere))
    try_stepping(config)
    options = checked(options, config.trainer.select == "best" or any(map(validates, callbacks)))
    bars.show(options.pop("enable_progress_bar", None) is not False)
    refuse(options)
    quiet()
    for where, precision in (("trainer", options["precision"]), ("pair.teacher", config.pair.teacher.precision)):
        check_precision(str(precision), f"{where}.precision")
        try:
            lightning.Trainer(
                **{
                    **options,
                    "precision": precision,
                    "logger": False,
                    "enable_checkpointing": False,
                    "enable_model_summary": False,
                    "callbacks": callbacks,
                }
            )
        except Exception as error:  # each option is refused by a part of Lightning with an exception of its own
            told = " ".join(str(error).split())[:300]
            raise UserError(
                f"{where}: lightning.Trainer refuses its options ({told}); correct them, or leave them out"
            ) from error
    return options


def check_interval(config: DictConfig, rows: int) -> None:
    """Check how often an epoch of so many rows is validated: Lightning does so only when the student's training starts.

    Raises:
        UserError: if there are fewer batches.
    """
    trainer = config.trainer
    every, limit = (
        trainer.get("val_check_interval"),
        trainer.get("overfit_batches") or trainer.get("limit_train_batches"),
    )
    if type(every) is not int or trainer.get("check_val_every_n_epoch", 1) is None or trainer.get("fast_dev_run"):
        return
    batches = -(-rows // (config.data.batch_size * processes(trainer_of(config))))
    batches = min(batches, limit) if type(limit) is int else int(batches * limit) if limit is not None else batches
    if every > batches:
        raise UserError(
            f"trainer.val_check_interval={every} is more than the {batches} batches of an epoch; give "
            f"trainer.val_check_interval={batches} or less, or add +trainer.check_val_every_n_epoch=null to count on "
            "over epochs"
        )
