"""The staged run behind ``train.py``: data, teacher, logits, distillation, evaluation, export, report."""

from __future__ import annotations

import functools
import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from omegaconf import DictConfig, OmegaConf

from rwkd_lightning.data.datamodule import DistillationDataModule
from rwkd_lightning.disk import check_room, writing
from rwkd_lightning.metrics import metrics
from rwkd_lightning.models import Classifier
from rwkd_lightning.module import DistillationModule
from rwkd_lightning.optim import adamw, linear_schedule
from rwkd_lightning.pipeline import teacher as stages
from rwkd_lightning.pipeline import values
from rwkd_lightning.pipeline.artefacts import probe_scores, write_json, write_student, write_weights
from rwkd_lightning.pipeline.evaluate import evaluate, predict_hidden
from rwkd_lightning.pipeline.fit import Fitted, fit
from rwkd_lightning.pipeline.inner import check_inside, inside_of
from rwkd_lightning.pipeline.launch import is_first
from rwkd_lightning.pipeline.parts import (
    check_student,
    check_terms,
    data_of,
    meta_of,
    student_of,
    terms_of,
    trainer_of,
    weighting_of,
)
from rwkd_lightning.pipeline.report import table
from rwkd_lightning.store import Store
from rwkd_lightning.terms import Term
from rwkd_lightning.weighting import Weighting

log = logging.getLogger(__name__)


def run(config: DictConfig, folder: Path) -> dict[str, Any]:
    """Do what the config asks for, in ``folder``; returns the metrics. A finished run only prints its table.

    Of several processes the first one prepares, trains along, evaluates and writes; the others train along, and return nothing.

    Raises:
        UserError: for every mistake in the input, before training starts where that is possible.
    """
    finished = folder / "metrics.json"
    if config.force and is_first():
        for leftover in ("metrics.json", "weights.parquet", "student", "predictions", "checkpoints", "log"):
            path = folder / leftover
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if finished.is_file() and not config.force:
        result: dict[str, Any] = json.loads(finished.read_text())
        if is_first():
            print(f"\n{table(result, str(folder))}\nalready finished; add force=true to run it again")
        return result
    if not is_first():
        logging.getLogger("rwkd_lightning").setLevel(logging.WARNING)  # the first process tells
    with writing(folder, "runs_dir"):
        return carry_out(config, folder)


def carry_out(config: DictConfig, folder: Path) -> dict[str, Any]:
    """All stages, one after the other."""
    start = time.perf_counter()
    values.check(config)
    lightning.seed_everything(config.seed, workers=True, verbose=False)  # the meta-learner is initialised here
    weighting, terms, trainer_options = weighting_of(config), terms_of(config), trainer_of(config)
    folder.mkdir(parents=True, exist_ok=True)
    if is_first():
        OmegaConf.save(config, folder / "config.yaml", resolve=True)
    data = data_of(config)
    weighting.check(tuple(term.name for term in terms), data.task.is_regression)
    check_terms(terms, config, data.task)
    store = Store(Path(config.cache_dir).expanduser(), builds=is_first())
    student, tokenizer = check_student(config, data.task)
    check_inside(config, data.task, terms, weighting, student, tokenizer)
    # last and best checkpoint with two moments a weight, and the student itself
    check_room(folder, 7 * sum(p.numel() * p.element_size() for p in student.parameters()), "runs_dir")
    teacher = stages.teacher_of(config, data, store, trainer_options)
    device = torch.device("cuda" if trainer_options["accelerator"] in ("auto", "gpu") and torch.cuda.is_available() else "cpu")
    logits = stages.logits(config, teacher, data, store, device)

    lightning.seed_everything(config.seed, workers=True, verbose=False)
    student, tokenizer = student_of(config, data.task, str(teacher.folder))
    inside = inside_of(config, terms, student, teacher, data, store, device)
    loaders = DistillationDataModule(
        data, inside.tokenizer or tokenizer, max_length=config.data.max_length, batch_size=config.data.batch_size,
        eval_batch_size=config.data.eval_batch_size, meta_batch_size=config.meta.batch_size, seed=config.seed,
        label_noise=config.data.label_noise, teacher_noise=config.data.teacher_noise, meta_noise=config.data.meta_noise,
        teacher_logits=logits, teacher_states=inside.states, num_workers=config.data.num_workers, store=store)
    loaders.setup()
    module, fitted = distil(config, folder, loaders, student, weighting, terms, inside.teacher, trainer_options)
    for name in list(student.kept_layers):
        student.drop(name)
    if not is_first():
        return {}
    device = module.device if module.device.type == "cuda" else device
    result = evaluate(config, loaders, student, teacher, logits, fitted, module, device)
    predict_hidden(folder, loaders, student, device)
    result["cost"]["student_bytes"] = write_student(folder / "student", student, tokenizer)
    columns = write_weights(folder / "weights.parquet", module.ledger.cpu(), loaders)
    if config.data.label_noise or config.data.teacher_noise:
        result["probes"] = probe_scores(columns)
    result["cost"]["total_seconds"] = time.perf_counter() - start
    write_json(folder / "metrics.json", result)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    print(f"\n{table(result, str(folder))}")
    return result


def distil(config: DictConfig, folder: Path, loaders: DistillationDataModule, student: Classifier, weighting: Weighting,
           terms: list[Term], teacher: Classifier | None, trainer_options: dict[str, Any]) -> tuple[DistillationModule, Fitted]:
    """Stage 3: train the student."""
    extras = loaders.encoded("train").extras
    weighting.prepare({"labels": loaders.train_labels, **extras})
    meta = meta_of(config, loaders) if weighting.needs_influence else None
    module = DistillationModule(
        student, terms, weighting,
        functools.partial(adamw, lr=config.optimizer.lr, weight_decay=config.optimizer.weight_decay),
        loaders.train_size, schedule=functools.partial(linear_schedule, warmup=config.optimizer.warmup), meta=meta,
        teacher=teacher, updated_weights=config.meta.weights, clip=config.trainer.clip, accumulate=config.trainer.accumulate,
        metrics=metrics(loaders.task))
    choose = config.trainer.select == "best"
    log.info("distilling with weighting=%s, %d rows, meta split of %d", weighting, loaders.train_size,
             len(loaders.data.splits["meta"]))
    fitted = fit(module, loaders, folder, trainer_options, monitor=loaders.task.monitor if choose else None,
                 description=f"student ({config.weighting_name})")
    return module, fitted


