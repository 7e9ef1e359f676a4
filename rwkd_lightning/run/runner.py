"""A run from its config to its folder: the stages, one after the other, that every system goes through."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import torch
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf
from torch import nn

from rwkd_lightning.cache.disk import check_room, writing
from rwkd_lightning.cache.store import Store, digest
from rwkd_lightning.cli import schema as values
from rwkd_lightning.cli.words import config_words
from rwkd_lightning.report import page as report
from rwkd_lightning.run import inputs
from rwkd_lightning.run.build import (
    check_settings,
    check_terms,
    loop_of,
    meta_of,
    system_of,
    terms_of,
    trainer_of,
    weighting_of,
)
from rwkd_lightning.run.callbacks import check_monitors
from rwkd_lightning.run.distil import clear, distil, remove
from rwkd_lightning.run.faults import memory_told
from rwkd_lightning.run.fit import Fitted
from rwkd_lightning.run.identity import device_kind
from rwkd_lightning.run.inputs import Inputs
from rwkd_lightning.run.laps import Laps
from rwkd_lightning.run.outputs import without_nan, write_json, write_predictions, write_weights
from rwkd_lightning.run.predict import speed_ratio
from rwkd_lightning.run.processes import is_first
from rwkd_lightning.run.result_table import table
from rwkd_lightning.run.signals import Stop
from rwkd_lightning.run.slurm import restarted
from rwkd_lightning.run.system import Evaluation, Run, System, Teacher
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.paths import replaced

UNTRAINED = 12
"""Bytes on disk that a run needs per byte of its student: three checkpoints with two moments a weight, the best student
twice, and the student itself.
"""


def run(config: DictConfig, folder: Path) -> dict[str, Any]:
    """Do what the config asks for, in ``folder``; returns the metrics. A finished run only prints its table.

    Of several processes the first one prepares, trains along, evaluates and writes; the others train along, and return
    nothing.

    Raises:
        UserError: for every mistake in the input, before training starts where that is possible; for a finished run
            whose data or models are others now.
    """
    finished = folder / "metrics.json"
    force = config.force and not restarted()  # a job that goes on must not throw away what it has
    if finished.is_file() and not force:
        result: dict[str, Any] = json.loads(finished.read_text())
        if is_first():
            system = system_of(config)
            print(
                f"\n{table(result, str(folder), system.lines(result))}\nalready finished; add force=true to run it"
                " again"
            )
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # of a run that was killed as it removed them
            check_finished(system, folder)
        return result
    if not is_first():
        logging.getLogger("rwkd_lightning").setLevel(logging.WARNING)  # the first process tells
    stop = Stop()
    with config_words(), stop.listening(), writing(folder, "runs_dir"), only_one(folder):
        values.check(config)
        system = system_of(config)
        with memory_told(system.less_memory):
            return carry_out(system, config, folder, stop, force)


def carry_out(system: System, config: DictConfig, folder: Path, stop: Stop, force: bool) -> dict[str, Any]:
    """All stages: data, checks, teacher, distillation, evaluation, files."""
    laps = Laps()
    seed(config)  # the meta-learner is initialised here
    weighting, terms, options = weighting_of(config), terms_of(config), trainer_of(config)
    folder.mkdir(parents=True, exist_ok=True)
    if is_first():
        OmegaConf.save(config, folder / "config.yaml", resolve=True)
    device = torch.device("cuda" if device_kind(config.trainer.accelerator) == "cuda" else "cpu")
    run = Run(
        folder, Store(Path(config.cache_dir).expanduser(), builds=is_first()), options, stop, device, config.checkpoint
    )
    system.read()
    laps.end("data")
    check_terms(terms, config, system.provides, weighting, system.name)
    check_settings(config, weighting)
    check_monitors(config, system.monitors)
    made_of = system.inputs()
    if is_first() and not force:
        inputs.check(folder, made_of)

    seed(config)  # the student is initialised here
    student = system.prepare(run, terms, weighting)
    drawn = torch.get_rng_state()
    laps.end("checks")
    check_room(folder, UNTRAINED * sum(p.numel() * p.element_size() for p in student.parameters()), "runs_dir")
    teacher, files = system.teacher(run)
    laps.end("teacher")
    if is_first():
        begin(
            system,
            folder,
            {**made_of, "models": {**made_of["models"], "trained teacher": {"sha256": digest(files)}}},
            force,
        )

    seed(config)  # whatever the stages before have drawn
    made = system.student(run, terms)
    if made is None:
        torch.set_rng_state(drawn)
    student = student if made is None else made
    loaders = system.loaders(run, student, terms)
    weighting.prepare({"labels": loaders.train_labels, **loaders.rows(loaders.train_split).extras})
    module = system.module(
        student,
        terms,
        weighting,
        train_size=loaders.train_size,
        meta=meta_of(config, weighting, loaders.meta_stream),
        **loop_of(config),
    )
    laps.end("inputs")
    fitted = distil(config, folder, module, loaders, options, stop, force, system.monitor)
    if not is_first():
        return {}
    laps.end("training")
    device = module.device if module.device.type == "cuda" else device
    found = system.evaluate(run, student, device)
    laps.end("scores")
    result: dict[str, Any] = {
        "task": found.task,
        "weighting": config.weighting_name,
        "seed": config.seed,
        "metric": found.metric,
        "checkpoint": fitted.checkpoint,
        "meta": found.meta,
        **found.scores,
        **found.more,
        "cost": cost_of(fitted, module, student, found, teacher, device),
    }
    result["cost"]["student_bytes"] = system.export(folder, student, result)
    columns = write_weights(folder / "weights.parquet", module.ledger.cpu(), loaders, system.columns())
    if found.rows:
        write_predictions(folder / "predictions.parquet", found.rows)
    if findings := system.findings(columns):
        result["corruption"] = findings
    for name, page in system.pages(columns).items():
        with replaced(folder / name) as part:
            part.write_text(page, encoding="utf-8")
    laps.end("files")
    result["cost"] |= {"total_seconds": laps.total, "stage_seconds": laps.seconds}
    report.write(folder, without_nan(result), module.term_names, columns, system.words)
    write_json(folder / "metrics.json", result)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    print(f"\n{table(result, str(folder), system.lines(result))}")
    return result


def seed(config: DictConfig) -> None:
    """Begin the random numbers of this run again."""
    lightning.seed_everything(config.seed, workers=True, verbose=False)


def begin(system: System, folder: Path, made_of: Inputs, force: bool) -> None:
    """Note what the student's training is made of; with ``force`` first remove what an earlier run has left."""
    if force:  # not before all that may fail has not failed
        clear(folder, *system.files)
    inputs.check(folder, made_of)
    inputs.write(folder, made_of)


def cost_of(
    fitted: Fitted,
    module: DistillationModule,
    student: nn.Module,
    found: Evaluation,
    teacher: Teacher | None,
    device: torch.device,
) -> dict[str, Any]:
    """The time and memory of the training, and the sizes and the speed of teacher and student.

    Those of a teacher that is no model are None.
    """
    network = found.teacher
    return {
        "train_seconds": fitted.train_seconds,
        "seconds_per_step": fitted.train_seconds / max(1, fitted.steps),
        "steps": fitted.steps,
        "meta_steps": module.meta.steps if module.meta is not None else 0,
        "peak_memory_mib": fitted.peak_memory_mib,
        "student_parameters": count(student),
        "teacher_parameters": None if network is None else count(network),
        "teacher_seconds": None if teacher is None else teacher.train_seconds,
        "teacher_bytes": None if teacher is None else teacher.bytes,
        "speed_up": None if network is None else speed_ratio(network, student, found.batches, device),
    }


def count(model: nn.Module) -> int:
    """Parameters of a model."""
    return sum(p.numel() for p in model.parameters())


def check_finished(system: System, folder: Path) -> None:
    """Raise UserError if the table of a finished run is not that of the data and models of now."""
    before = inputs.read(folder)
    if before is None:
        return
    try:
        system.read()
        now = system.inputs()
    except UserError as error:
        print(f"its data and models could not be compared with those of now ({error})")
        return
    changed = inputs.changes(before, now)
    if others := [change for change in changed if "rwkd_lightning" not in change]:
        raise UserError(
            f"the table above is of other inputs than those of now: {'; '.join(others)}; add force=true to run it "
            "again with those of now"
        )
    if changed:
        print(f"it was made by another version: {changed[0]}")


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Let no second command write into the same run's folder."""
    if not is_first():  # part of the first one
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"another process is at work in {folder}; wait for it, or change a setting (seed=1) for a run of its own"
        ) from None
    try:
        for left in (*folder.glob(".student-*"), *folder.glob(".*.part")):
            remove(left)  # a killed run's
        yield
    finally:
        lock.release()
