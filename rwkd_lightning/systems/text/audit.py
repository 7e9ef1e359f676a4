"""Scores of distrust for the labels of a text task's training rows, and for its teacher's outputs."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from rwkd_lightning.audit.rows import Audited
from rwkd_lightning.export.compare import outputs, torch_call
from rwkd_lightning.run.epochs import of_epochs
from rwkd_lightning.run.system import Run
from rwkd_lightning.systems.text import teacher as stages
from rwkd_lightning.systems.text.data.corruption import roll_teacher
from rwkd_lightning.systems.text.data.table import key_of
from rwkd_lightning.systems.text.data.task import TaskData, TaskSpec, build_split, column, table_of
from rwkd_lightning.systems.text.export import label_loss
from rwkd_lightning.systems.text.shipped import TextModel, described, teacher_at_hand
from rwkd_lightning.systems.text.teacher_outputs import each_of, of_data, of_models, paths_of
from rwkd_lightning.utils.errors import UserError

Table = Mapping[str, Sequence[Any]]


def audited(config: DictConfig, data: TaskData, run: Run, table: Table, folds: int) -> Audited:
    """The training rows of a finished run.

    The label's score is r·t + (1 − r)·s: t is the teacher's own loss on the label that the row was trained with
    (``folds``: that of a teacher which has not seen the row), s the student's, in the mean over the epochs, and
    r = exp(−d/2), d the student's divergence from the teacher in the mean over the epochs. So the teacher is believed
    where the student has followed it. The teacher's score is the student's divergence from it at the last visit.
    docs/audit.md compares them with others.

    Args:
        table: the columns of ``weights.parquet``.
        folds: see `out_of_fold`; 0: the run's own teacher.

    Raises:
        UserError: if the teacher is not there any more, or cannot be asked in folds.
    """
    task, rows = data.task, data.splits["train"]
    if list(table["idx"]) != column(rows, "idx").tolist():
        raise UserError(
            f"{run.folder / 'weights.parquet'} holds other rows than the training split; run train.py again"
        )
    texts = {name: table_of(rows)[name].to_pylist() for name in task.text_columns}
    labels = given_labels(task, table)
    teacher, known = teacher_logits(config, data, run, table)
    notes = []
    if folds:
        teacher, known = out_of_fold(config, data, run, table, folds), torch.ones(len(labels), dtype=torch.bool)
        notes.append(f"the teacher's answers are of {folds} teachers, each asked for rows that it has not seen")
    elif seen_by_teacher(config, data):
        notes.append(
            "the teacher was fine-tuned on these rows and has learnt some of their wrong labels: --folds 5 asks one "
            "that has not seen the row"
        )
    model = TextModel(run.folder / "student", described(config, task), task)
    student = outputs(model, torch_call(model, run.device.type), list(texts.values()), "student: train")
    labelled = has_label(task, labels)
    unit = float(labels[labelled].var()) if task.is_regression else 1.0
    theirs = masked(task_loss(task, teacher, labels) / unit, known & labelled)
    mine = masked(mean_loss(run.folder, table, LABEL_TERMS) / unit, labelled)
    apart = mean_loss(run.folder, table, TEACHER_TERMS) / unit
    if folds:  # a teacher that no student has followed
        apart = torch.zeros(len(labels))
    return Audited(
        texts,
        [name_of(task, label) for label in labels],
        [answer(task, row) if there else "" for row, there in zip(teacher, known.tolist(), strict=True)],
        [answer(task, row) for row in student],
        label_score(theirs, mine, apart),
        last_loss(table, TEACHER_TERMS),
        {
            "teacher": [sure(task, row) if there else "" for row, there in zip(teacher, known.tolist(), strict=True)],
            "student": [sure(task, row) for row in student],
        },
        not task.is_regression,
        shares(task, teacher, known, student),
        notes,
    )


def label_score(teacher: Tensor, student: Tensor, apart: Tensor) -> Tensor:
    """r·t + (1 − r)·s with r = exp(−d/2), ``(N,)`` each; one of the two alone where the other is not known (NaN).

    Args:
        teacher: t, its loss on the label.
        student: s, its loss on the label.
        apart: d, the student's divergence from the teacher; NaN counts as 0.
    """
    follows = torch.exp(-apart.nan_to_num(0.0) / 2)
    teacher, student = (
        torch.where(teacher.isnan(), student, teacher),
        torch.where(student.isnan(), teacher, student),
    )
    return follows * teacher + (1 - follows) * student


LABEL_TERMS = ("ce", "bce", "squared_error")
TEACHER_TERMS = ("kd", "bernoulli_kd", "logit_mse", "soft_ce", "annealed_mse")
"""Terms that measure the student's distance from the label and from the teacher; the first one in the run is used."""


def given_labels(task: TaskSpec, table: Table) -> Tensor:
    """The labels that the rows were trained with ``(N,)``, of several per row ``(N, C)``; NaN or −1 without one."""
    values = table["label"]
    if task.is_regression:
        return torch.tensor([float("nan") if value is None else value for value in values], dtype=torch.float32)
    return torch.tensor(values, dtype=torch.float32 if task.is_multilabel else torch.long)


def has_label(task: TaskSpec, labels: Tensor) -> Tensor:
    """Flags ``(N,)`` of rows with a label."""
    if task.is_regression:
        return ~labels.isnan()
    return labels >= 0 if labels.ndim == 1 else (labels >= 0).all(1)


def teacher_logits(config: DictConfig, data: TaskData, run: Run, table: Table) -> tuple[Tensor, Tensor]:
    """The logits ``(N, C)`` that the student was taught with, corruption included, and the rows that have any."""
    if not paths_of(config):
        taught = of_data(data)
    else:
        try:
            for one in each_of(config):
                teacher_at_hand(one, data)  # it is not trained again only to be asked
        except UserError as error:
            raise UserError(f"the audit asks the run's teacher, and {error}") from error
        taught = of_models(config, data, run)
    logits = taught.logits["train"].float()
    flags = torch.tensor(table["teacher_corrupted"], dtype=torch.bool)
    return roll_teacher(logits, flags), taught.known.get("train", torch.ones(len(logits), dtype=torch.bool))


def seen_by_teacher(config: DictConfig, data: TaskData) -> bool:
    """Whether the run's teacher was fine-tuned on training rows of the student's."""
    if not paths_of(config) or config.pair.teacher.epochs == 0:
        return False
    return not set(column(data.splits["teacher_train"], "idx")).isdisjoint(column(data.splits["train"], "idx"))


def task_loss(task: TaskSpec, logits: Tensor, labels: Tensor) -> Tensor:
    """The loss ``(N,)`` of logits ``(N, C)`` on the labels."""
    if task.is_regression:
        return (logits[:, 0] - labels) ** 2
    return label_loss(logits, labels)


def last_loss(table: Table, terms: Sequence[str]) -> Tensor:
    """The student's loss ``(N,)`` by the first of these terms that the run has, at the last visit; NaN without one."""
    name = next((f"loss_{term}" for term in terms if f"loss_{term}" in table), None)
    values = [None] * len(table["idx"]) if name is None else table[name]
    return torch.tensor([np.nan if value is None else value for value in values], dtype=torch.float32)


def mean_loss(folder: Path, table: Table, terms: Sequence[str]) -> Tensor:
    """The same in the mean over the epochs, where these are recorded."""
    name = next((f"loss_{term}" for term in terms if f"loss_{term}" in table), "")
    epochs = of_epochs(folder, name) or [last_loss(table, terms)]
    return torch.stack(epochs).nanmean(0).float()


def masked(values: Tensor, known: Tensor) -> Tensor:
    """The values ``(N,)``, NaN where they are not known."""
    return torch.where(known, values.float(), torch.nan)


def name_of(task: TaskSpec, label: Tensor) -> str:
    """A label in words; empty where there is none."""
    if task.label_names is None:
        return "" if bool(label.isnan()) else f"{float(label):.4g}"
    if label.ndim:
        names = [name for name, yes in zip(task.label_names, label.tolist(), strict=True) if yes > 0]
        return "" if bool((label < 0).any()) else "; ".join(names) or "no label"
    return task.label_names[int(label)] if label >= 0 else ""


def answer(task: TaskSpec, logits: Tensor) -> str:
    """The label that a model predicts from its logits ``(C,)``."""
    if task.label_names is None:
        return f"{float(logits[0]):.4g}"
    if task.is_multilabel:
        return name_of(task, (logits > 0).float())
    return task.label_names[int(logits.argmax())]


def sure(task: TaskSpec, logits: Tensor) -> str:
    """The probability of that answer; empty where it has none of its own."""
    single = task.label_names is not None and not task.is_multilabel
    return f"{float(logits.softmax(0).max()):.2f}" if single else ""


def shares(task: TaskSpec, teacher: Tensor, known: Tensor, student: Tensor) -> dict[str, Tensor]:
    """The probabilities of each class by teacher and student, NaN where the teacher says nothing."""
    if task.label_names is None:
        return {"teacher_value": masked(teacher[:, 0], known), "student_value": student[:, 0]}
    both = {"teacher": teacher, "student": student}
    found = {
        f"{who}_{name}": (logits.sigmoid() if task.is_multilabel else logits.softmax(1))[:, c]
        for who, logits in both.items()
        for c, name in enumerate(task.label_names)
    }
    return {name: masked(one, known) if name.startswith("teacher_") else one for name, one in found.items()}


def out_of_fold(config: DictConfig, data: TaskData, run: Run, table: Table, folds: int) -> Tensor:
    """Logits ``(N, C)`` of the training rows, each by a teacher that is fine-tuned on the other folds.

    Rows of equal text are in one fold. The teachers are trained with the labels of the run, those that were flipped on
    purpose included, and kept in the cache.

    Raises:
        UserError: for a teacher that is not fine-tuned, and for fewer distinct texts than folds.
    """
    task, rows = data.task, data.splits["train"]
    paths = paths_of(config)
    if len(paths) > 1:
        raise UserError(f"--folds fine-tunes one teacher again, and this run has {len(paths)}; leave --folds out")
    if not paths or config.pair.teacher.epochs == 0:
        raise UserError(
            "--folds fine-tunes the run's teacher again; this one was not fine-tuned in the run, so it has not learnt "
            "these labels; leave --folds out"
        )
    labels = column(rows, "label")
    if not (task.is_regression or task.is_multilabel):
        labels = np.array(table["label"], np.int64)
    texts = {name: table_of(rows)[name].to_pylist() for name in task.text_columns}
    fold = dealt([key_of(*row) for row in zip(*texts.values(), strict=True)], folds, config.seed)
    found = torch.full((len(labels), task.num_labels), torch.nan)
    for number in range(folds):
        inside, outside = np.flatnonzero(fold == number), np.flatnonzero((fold != number) & ~task.lacks_label(labels))
        if not len(inside) or not len(outside):
            raise UserError(f"--folds={folds}: there are too few distinct texts; give fewer")
        print(f"fold {number + 1} of {folds}: a teacher of {len(outside)} rows for {len(inside)}", flush=True)
        idx = column(rows, "idx")
        parts = {
            name: build_split(
                task,
                {
                    "idx": idx[taken].tolist(),
                    "label": labels[taken].tolist(),
                    **{column: [values[row] for row in taken] for column, values in texts.items()},
                },
                name,
            )
            for name, taken in (("teacher_train", outside), ("train", inside))
        }
        part = TaskData(task, {**data.splits, **parts})
        teacher = stages.fine_tuned(config, part, run)
        found[inside] = stages.logits(config, teacher, part, run.store, run.device, ["train"])["train"].float()
    return found


def dealt(keys: Sequence[str], folds: int, seed: int) -> np.ndarray:
    """The fold of each row ``(N,)``: distinct texts in random order, dealt one by one."""
    distinct = sorted(set(keys))
    random.Random(seed).shuffle(distinct)
    place = {key: number % folds for number, key in enumerate(distinct)}
    return np.array([place[key] for key in keys])
