"""The staged run of a text classifier or regression: data, teacher, logits, distillation, evaluation, export, report."""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from omegaconf import DictConfig, OmegaConf

from rwkd_lightning.cache.disk import check_room
from rwkd_lightning.cache.store import Store, digest
from rwkd_lightning.run import inputs
from rwkd_lightning.run.build import (
    check_settings,
    check_student,
    check_terms,
    data_of,
    loop_of,
    meta_of,
    optimizer_of,
    schedule_of,
    student_of,
    tell_unlabelled,
    terms_of,
    trainer_of,
    weighting_of,
)
from rwkd_lightning.run.callbacks import check_monitors
from rwkd_lightning.run.distil import clear, distil
from rwkd_lightning.run.identity import device_kind
from rwkd_lightning.run.inputs import Inputs
from rwkd_lightning.run.outputs import probe_scores, teacher_ce, try_writing, write_json, write_student, write_weights
from rwkd_lightning.run.processes import is_first
from rwkd_lightning.run.result_table import table
from rwkd_lightning.run.signals import Stop
from rwkd_lightning.systems.text import teacher as stages
from rwkd_lightning.systems.text.data.datamodule import DistillationDataModule
from rwkd_lightning.systems.text.data.task import TaskData
from rwkd_lightning.systems.text.evaluate import evaluate, predict_hidden
from rwkd_lightning.systems.text.metrics import metrics
from rwkd_lightning.systems.text.models import Classifier, find, fingerprint
from rwkd_lightning.systems.text.teacher_states import check_inside, inside_of, looking_inside
from rwkd_lightning.terms import Term
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.weighting import Weighting

log = logging.getLogger(__name__)


def carry_out(config: DictConfig, folder: Path, stop: Stop, force: bool) -> dict[str, Any]:
    """All stages, one after the other."""
    start = time.perf_counter()
    lightning.seed_everything(config.seed, workers=True, verbose=False)  # the meta-learner is initialised here
    weighting, terms, trainer_options = weighting_of(config), terms_of(config), trainer_of(config)
    folder.mkdir(parents=True, exist_ok=True)
    if is_first():
        OmegaConf.save(config, folder / "config.yaml", resolve=True)
    data = data_of(config)
    weighting.check(tuple(term.name for term in terms), data.task.is_regression)
    check_terms(terms, config, data.task)
    check_settings(config, weighting)
    check_monitors(config, [data.task.monitor, *metrics(data.task)])
    tell_unlabelled(config, data, terms, weighting)
    store = Store(Path(config.cache_dir).expanduser(), builds=is_first())
    lightning.seed_everything(config.seed, workers=True, verbose=False)  # the student's head is drawn here
    student, tokenizer = check_student(config, data.task)
    kept = config.pair.student.layers
    log.info("student %s keeps %s", config.pair.student.path, "all of its blocks" if kept is None else f"its blocks {list(kept)}")
    drawn = torch.get_rng_state()
    check_inside(config, data.task, terms, weighting, student, tokenizer)
    made_of = inputs_of(config, data)
    if is_first() and not force:
        inputs.check(folder, made_of)
    # three checkpoints with two moments a weight, the best student twice, and the student itself
    check_room(folder, 12 * sum(p.numel() * p.element_size() for p in student.parameters()), "runs_dir")
    if is_first():
        try_writing(folder, student, tokenizer, f"pair.student.path={config.pair.student.path}")
    teacher = stages.teacher_of(config, data, store, trainer_options, stop)
    device = torch.device("cuda" if device_kind(config.trainer.accelerator) == "cuda" else "cpu")
    logits = stages.logits(config, teacher, data, store, device)
    made_of = {**made_of, "models": {**made_of["models"], "trained teacher": {"sha256": digest(fingerprint(teacher.folder))}}}
    if is_first():
        if force:  # not before all that may fail has not failed
            clear(folder, "predictions")
        inputs.check(folder, made_of)
        inputs.write(folder, made_of)

    lightning.seed_everything(config.seed, workers=True, verbose=False)  # whatever the stages before have drawn
    if config.pair.student.path == "teacher" or looking_inside(terms):  # there was none yet, or terms have been tried on it
        student, tokenizer = student_of(config, data.task, str(teacher.folder))
    else:
        torch.set_rng_state(drawn)
    inside = inside_of(config, terms, student, teacher, data, store, device)
    loaders = DistillationDataModule(
        data, inside.tokenizer or tokenizer, max_length=config.data.max_length,
        batch_size=config.data.batch_size * config.trainer.accumulate,  # of a student step; the module cuts it into parts again
        eval_batch_size=config.data.eval_batch_size, meta_batch_size=config.meta.batch_size, seed=config.seed,
        label_noise=config.data.label_noise, teacher_noise=config.data.teacher_noise, meta_noise=config.data.meta_noise,
        teacher_logits=logits, teacher_states=inside.states, num_workers=config.data.num_workers, store=store)
    loaders.setup()
    module = module_of(config, loaders, student, weighting, terms, inside.teacher)
    fitted = distil(config, folder, module, loaders, trainer_options, stop, force, loaders.task.monitor)
    for name in list(student.kept_layers):
        student.drop(name)
    if not is_first():
        return {}
    device = module.device if module.device.type == "cuda" else device
    result = evaluate(config, loaders, student, teacher, logits, fitted, module, device)
    predict_hidden(folder, loaders, student, device)
    result["cost"]["student_bytes"] = write_student(folder / "student", student, tokenizer)
    columns = write_weights(folder / "weights.parquet", module.ledger.cpu(), loaders, teacher_ce(loaders))
    if config.data.label_noise or config.data.teacher_noise:
        result["probes"] = probe_scores(columns)
    result["cost"]["total_seconds"] = time.perf_counter() - start
    write_json(folder / "metrics.json", result)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    print(f"\n{table(result, str(folder))}")
    return result


def inputs_of(config: DictConfig, data: TaskData | None = None) -> Inputs:
    """The splits and models that the config names, as they are now; ``data`` where it is loaded already."""
    data = data_of(config) if data is None else data
    paths = {who: config.pair[who].path for who in ("teacher", "student")}
    return inputs.inputs({name: (len(rows), data.fingerprint(name)) for name, rows in data.splits.items()},
                         {who: fingerprint(find(path)) for who, path in paths.items() if path != "teacher"})


def module_of(config: DictConfig, loaders: DistillationDataModule, student: Classifier, weighting: Weighting, terms: list[Term],
              teacher: Classifier | None) -> DistillationModule:
    """The LightningModule of stage 3; ``teacher`` only where a term needs it to run along."""
    weighting.prepare({"labels": loaders.train_labels, **loaders.encoded("train").extras})
    return DistillationModule(
        student, terms, weighting,
        optimizer_of(config), loaders.train_size, schedule=schedule_of(config),
        meta=meta_of(config, weighting, loaders.meta_stream), teacher=teacher, metrics=metrics(loaders.task), **loop_of(config))
