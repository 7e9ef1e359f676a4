"""From the config's nodes to a text task's data and student, with every mistake told in the config's own words."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rwkd_lightning.run.build import check_interval, create
from rwkd_lightning.systems.text.data.task import TaskData, TaskSpec, column
from rwkd_lightning.systems.text.kinds.build import made, told
from rwkd_lightning.systems.text.models import Classifier, check_inputs, load_classifier, load_tokenizer
from rwkd_lightning.systems.text.models.lora import Lora, adapt, lora_of
from rwkd_lightning.terms import Term
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting import LabelsOnly, Weighting

log = logging.getLogger(__name__)


def data_of(config: DictConfig) -> TaskData:
    """The task's splits.

    Raises:
        UserError: also where a corruption is asked for that the task has no classes for, and as ``check_interval``
            does.
    """
    data: TaskData = create(config, "task.load", TaskData)
    if data.task.is_regression != config.task.regression:
        raise UserError(
            f"task={data.task.name}: task.regression is {config.task.regression}, but its data says otherwise"
        )
    if data.task.is_regression and (config.data.label_noise or config.data.teacher_noise or config.data.meta_noise):
        raise UserError(
            "data.label_noise, data.teacher_noise and data.meta_noise move labels and logits between classes; "
            f"task={data.task.name} is a regression"
        )
    if data.task.is_multilabel and (config.data.label_noise or config.data.meta_noise):
        raise UserError(
            "data.label_noise and data.meta_noise move a label from one class to another; "
            f"task={data.task.name} has several labels per row, so set them to 0"
        )
    check_interval(config, len(data.splits["train"]))
    return data


def tell_unlabelled(config: DictConfig, data: TaskData, terms: Sequence[Term], weighting: Weighting) -> None:
    """Log how many training rows teach the student nothing in this run, as they have no label."""
    count = int(data.task.lacks_label(column(data.splits["train"], "label")).sum())
    alpha = getattr(
        getattr(weighting, "fixed", weighting), "alpha", None
    )  # the teacher's share, where the method has one
    if count and (isinstance(weighting, LabelsOnly) or alpha == 0 or all(term.role == "label" for term in terms)):
        log.info(
            "the %d rows of 'train' without a label teach the student nothing under weighting=%s terms=[%s], where they"
            " weigh 0; they do by a teacher's term: terms=[%s] weighting=kd weighting.alpha=0.5",
            count,
            config.weighting_name,
            ",".join(term.name for term in terms),
            ",".join(config.task.terms),
        )


def student_of(config: DictConfig, task: TaskSpec, teacher: str) -> tuple[Classifier, Any]:
    """The untrained student and its tokenizer; ``pair.student.path=teacher`` starts from the fine-tuned teacher."""
    spec = config.pair.student
    path = teacher if spec.path == "teacher" else spec.path
    tokenizer = load_tokenizer(path)
    student = begun(config, path, task, tokenizer, spec.new_head)
    check_inputs(student, tokenizer, config.data.max_length, spec.path)
    return with_lora(config, student), tokenizer


def check_student(config: DictConfig, task: TaskSpec) -> tuple[Classifier, Any]:
    """Load the student and its tokenizer before the teacher is trained: a mistake there must not cost hours."""
    if config.pair.student.path == "teacher":
        path = config.pair.teacher.path
        tokenizer = load_tokenizer(path)
        return with_lora(config, begun(config, path, task, tokenizer, True)), tokenizer
    return student_of(config, task, "")


def begun(config: DictConfig, path: str, task: TaskSpec, tokenizer: Any, new_head: bool) -> Classifier:
    """The model at ``path``, cut to its layers; or with ``pair.student.kind`` one of that kind, with its words."""
    spec = config.pair.student
    kind = OmegaConf.select(config, "pair.student.kind")
    if kind is None:
        return load_classifier(path, task, spec.layers, new_head=new_head)
    student = made(kind, spec.table, path, task, tokenizer)
    log.info("student: %s", told(student, kind, spec.table))
    return student


def lora_settings(config: DictConfig) -> Lora | None:
    """Those of ``pair.student.lora``; None where the whole student is trained."""
    return lora_of(OmegaConf.select(config, "pair.student.lora"))


def with_lora(config: DictConfig, student: Classifier) -> Classifier:
    """The student, frozen but for its head and low-rank updates where the config asks for them."""
    settings = lora_settings(config)
    if settings is not None:
        adapt(student, settings)
    return student
