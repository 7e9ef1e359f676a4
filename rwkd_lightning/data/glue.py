"""The nine GLUE tasks, from the hub or from a local directory of the same layout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkd_lightning.data.splits import stratified_group_split
from rwkd_lightning.data.task import TaskData, TaskSpec, build_split, column
from rwkd_lightning.errors import UserError

if TYPE_CHECKING:
    import datasets

HUB = "nyu-mll/glue"
_VALIDATION = ("validation",)
_PAIR = ("sentence1", "sentence2")
_ENTAILMENT = ("entailment", "not_entailment")
_TASKS = (
    TaskSpec("cola", ("sentence",), ("unacceptable", "acceptable"), ("matthews",), "matthews", _VALIDATION),
    TaskSpec("sst2", ("sentence",), ("negative", "positive"), ("accuracy",), "accuracy", _VALIDATION),
    TaskSpec("mrpc", _PAIR, ("not_equivalent", "equivalent"), ("f1", "accuracy"), "f1", _VALIDATION),
    TaskSpec("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), ("f1", "accuracy"), "f1", _VALIDATION),
    TaskSpec(
        "mnli",
        ("premise", "hypothesis"),
        ("entailment", "neutral", "contradiction"),
        ("accuracy",),
        "accuracy",
        ("validation_matched", "validation_mismatched"),
    ),
    TaskSpec("qnli", ("question", "sentence"), _ENTAILMENT, ("accuracy",), "accuracy", _VALIDATION),
    TaskSpec("rte", _PAIR, _ENTAILMENT, ("accuracy",), "accuracy", _VALIDATION),
    TaskSpec("stsb", _PAIR, None, ("pearson", "spearman"), "pearson", _VALIDATION),
    # The one task whose class 1 is "entailment".
    TaskSpec("wnli", _PAIR, ("not_entailment", "entailment"), ("accuracy",), "accuracy", _VALIDATION),
)
GLUE: dict[str, TaskSpec] = {task.name: task for task in _TASKS}


def load_glue(task: str, path: str | None = None, meta_fraction: float = 0.1, split_seed: int = 0) -> TaskData:
    """Load a GLUE task from `path` (hub name or local directory) and cut the meta split out of its training rows.

    UserError for an unknown task, an unreachable hub, or data that does not have the task's columns and labels.
    """
    if task not in GLUE:
        raise UserError(f"unknown GLUE task {task!r}; known are {', '.join(GLUE)}")
    spec = GLUE[task]
    path = HUB if path is None else path
    loaded = _load(task, path)
    for split in ("train", *spec.evaluation_splits):
        if split not in loaded:
            raise UserError(f"data.path={path!r} has no split {split!r} for task {task!r}, only {sorted(loaded)}")
    train = _plain(spec, loaded["train"], path)
    labels = column(train, "label")
    rows = train[:]
    groups = list(zip(*(rows[name] for name in spec.text_columns), strict=True))
    strata = np.rint(labels) if spec.is_regression else labels
    rest, held = stratified_group_split(groups, strata, meta_fraction, split_seed)

    student_train = _take(spec, rows, rest)
    splits = {"teacher_train": student_train, "train": student_train, "meta": _take(spec, rows, held)}
    for split in spec.evaluation_splits:
        splits[split] = _plain(spec, loaded[split], path)
    return TaskData(spec, splits)


def _load(task: str, path: str) -> datasets.DatasetDict:
    import datasets

    local = Path(path).expanduser()
    # A hub name is "owner/name"; whatever else it looks like was meant as a directory.
    is_hub_name = path.count("/") == 1 and not path.startswith((".", "/", "~")) and not path.endswith("/")
    if not local.is_dir() and not is_hub_name:
        raise UserError(f"data.path={path!r} is not a directory; give one with the layout of nyu-mll/glue")
    try:
        with _no_progress_bars():
            loaded: Any = datasets.load_dataset(str(local) if local.is_dir() else path, task)
            return loaded
    except Exception as error:  # the hub's client raises many unrelated types when it is offline
        cause = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        if local.is_dir():
            raise UserError(f"data.path={path!r} has no readable data of task {task!r} ({cause})") from error
        raise UserError(
            f"cannot load {path!r}: it is no local directory, and the hub did not give it ({cause}); download it "
            "elsewhere and give data.path=DIR, or run the offline task=tweets"
        ) from error


def _plain(spec: TaskSpec, rows: datasets.Dataset, path: str) -> datasets.Dataset:
    """Return `rows` with the plain columns of `spec`, or UserError where they are not this task's."""
    where = f"data.path={path!r}, task {spec.name!r}"
    if missing := [name for name in spec.columns if name not in rows.column_names]:
        raise UserError(f"{where}: columns {missing} are missing, it has {rows.column_names}")
    label = rows.features["label"]
    names = getattr(label, "names", None)
    if names is not None and tuple(names) != spec.label_names:
        raise UserError(f"{where}: the label names are {names}, expected {spec.label_names}")
    kinds = ("int", "uint", "float") if spec.is_regression else ("int", "uint")
    if not str(getattr(label, "dtype", "")).startswith(kinds):
        raise UserError(f"{where}: the label column is {label}, expected {'numbers' if spec.is_regression else 'ints'}")
    return build_split(spec, rows.select_columns(list(spec.columns)).with_format(None)[:])


def _take(spec: TaskSpec, rows: dict[str, list[Any]], numbers: np.ndarray) -> datasets.Dataset:
    return build_split(spec, {name: [rows[name][i] for i in numbers] for name in spec.columns})


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    import datasets

    were_on = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if were_on:
            datasets.enable_progress_bars()
