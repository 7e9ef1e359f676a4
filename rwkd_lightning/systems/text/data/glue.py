"""The nine GLUE tasks, from the hub or from a local directory with the same Parquet files."""

from __future__ import annotations

import dataclasses
import difflib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkd_lightning.data.splits import stratified_group_split
from rwkd_lightning.systems.text.data.task import (
    UNLABELLED,
    TaskData,
    TaskSpec,
    check_split,
    column,
    split_from_table,
    table_of,
)
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.paths import place

if TYPE_CHECKING:
    import datasets
    import pyarrow

log = logging.getLogger(__name__)
HUB = "nyu-mll/glue"
SCORES = (0.0, 5.0)
"""The range of the one regression task's labels."""
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


def load_glue(
    task: str, path: str | None = None, meta_fraction: float = 0.1, split_seed: int = 0, leaderboard: bool = False
) -> TaskData:
    """Load a GLUE task from `path` (hub name or directory) and cut the meta split out of its labelled training rows.

    Training rows of label -1 (stsb: NaN too) are the student's alone, since the teacher is trained on labels; those
    whose text is held out are left out. A log line says how many there are. With `leaderboard` the splits that GLUE's
    site scores are loaded too, without labels, as the task's hidden splits. UserError for an unknown task, an
    unreachable hub, or data that does not have the task's columns and labels.
    """
    if task not in GLUE:
        raise UserError(f"unknown GLUE task {task!r}; known are {', '.join(GLUE)}")
    spec = GLUE[task]
    if leaderboard:
        spec = dataclasses.replace(spec, hidden_splits=_hidden_splits(task))
    path = HUB if path is None else path
    loaded = _load(spec, path)
    with _naming(path):
        given = {split: _plain(spec, split, rows) for split, rows in loaded.items()}
    train = given.pop("train")
    labels, table = column(train, "label"), table_of(train)
    unlabelled = spec.lacks_label(labels)
    if unlabelled.all():
        raise UserError(
            f"data.path={path!r}: split 'train' of task {task!r} has no row with a label, but the teacher and the "
            f"meta split need some; label a part of its {len(labels)} rows"
        )
    groups, labelled = np.array(_groups(spec, table)), np.flatnonzero(~unlabelled)
    strata = np.rint(labels[labelled]) if spec.is_regression else labels[labelled]
    rest, held = (
        labelled[rows] for rows in stratified_group_split(groups[labelled].tolist(), strata, meta_fraction, split_seed)
    )
    teacher_train, meta = (split_from_table(spec, table.take(rows)) for rows in (rest, held))
    student_train = teacher_train  # one object: what is made of it is made and kept once
    if unlabelled.any():
        kept = unlabelled & ~np.isin(groups, groups[held])
        student_train = split_from_table(spec, table.take(np.sort(np.concatenate([rest, np.flatnonzero(kept)]))))
        log.info(
            "split 'train' of task %r has %d rows, %d of them without a label: the teacher's terms alone teach these%s",
            task,
            len(student_train),
            kept.sum(),
            f"; {left} more are left out, as their text is held out in 'meta'"
            if (left := unlabelled.sum() - kept.sum())
            else "",
        )
    with _naming(path):
        return TaskData(spec, {"teacher_train": teacher_train, "train": student_train, "meta": meta, **given})


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Put `path` in front of what the checks of a single split can say."""
    try:
        yield
    except UserError as error:
        raise UserError(f"data.path={path!r}: {error}") from error


def _hidden_splits(task: str) -> tuple[str, ...]:
    # "ax" is the diagnostic set: a config of its own on the hub, predicted by the model for MNLI.
    return ("test_matched", "test_mismatched", "ax") if task == "mnli" else ("test",)


def _groups(spec: TaskSpec, table: pyarrow.Table) -> list[int]:
    """Return a number for each row, the same for rows of the same text or pair of texts."""
    numbers = np.zeros(len(table), dtype=np.int64)
    for name in spec.text_columns:
        codes = table[name].combine_chunks().dictionary_encode()
        numbers = numbers * len(codes.dictionary) + codes.indices.to_numpy()
    return numbers.tolist()


def _plain(spec: TaskSpec, split: str, rows: datasets.Dataset) -> datasets.Dataset:
    """Return `rows` with the plain columns of `spec`, or UserError where they are not this task's."""
    import pyarrow as pa
    import pyarrow.compute as pc

    where = f"split {split!r} of task {spec.name!r}"
    hidden = split in spec.hidden_splits
    if twice := sorted({name for name in spec.columns if rows.column_names.count(name) > 1}):
        raise UserError(f"{where} has {rows.column_names.count(twice[0])} columns {twice[0]!r}; leave one")
    for name in spec.columns:
        if name not in rows.column_names and not (hidden and name == "label"):
            near = difflib.get_close_matches(name, rows.column_names, n=1)
            hint = f"is {near[0]!r} meant? " if near else ""
            raise UserError(f"{where} has no column {name!r}, only {rows.column_names}; {hint}rename or add it")
    table = table_of(rows)
    for name in spec.text_columns:
        if not (pa.types.is_string(table[name].type) or pa.types.is_large_string(table[name].type)):
            raise UserError(
                f"{where} has {table[name].type} in column {name!r}, first {_first(table[name])}; give text"
            )
    if not pa.types.is_integer(table["idx"].type):  # Arrow would read "0x1F" as 31, and a date as its microseconds
        raise UserError(
            f"{where} has {table['idx'].type} in column 'idx', first {_first(table['idx'])}; give whole numbers"
        )
    if hidden:  # even where a file carries labels, as that of mrpc does: they are not to be seen
        columns = {name: table[name] for name in ("idx", *spec.text_columns)}
        table = pa.table({**columns, "label": pa.array(np.full(len(table), spec.hidden_label))})
    else:
        _check_label_column(spec, where, rows.features["label"], table["label"])
    if spec.is_regression and split == "train":  # GLUE's own mark of a label that is not given
        at, scores = table.column_names.index("label"), table["label"]
        table = table.set_column(at, "label", pc.if_else(pc.equal(scores, UNLABELLED), spec.hidden_label, scores))
    plain = split_from_table(spec, table, split)
    check_split(spec, split, plain, unlabelled=split == "train")  # now: what follows needs sound labels
    if spec.is_regression and not hidden:
        labels, idx = column(plain, "label"), column(plain, "idx")
        if (outside := (labels < SCORES[0]) | (labels > SCORES[1])).any():
            raise UserError(f"{where} has label {labels[outside][0]} in row idx {idx[outside][0]}; expected 0 to 5")
    return plain


def _check_label_column(spec: TaskSpec, where: str, feature: Any, labels: pyarrow.ChunkedArray) -> None:
    """Raise UserError where the labels are words or of another type, or where their names are in another order."""
    import pyarrow as pa

    names = getattr(feature, "names", None)
    if names is not None and tuple(names) != spec.label_names:
        raise UserError(f"{where} has the label names {names}; expected {list(spec.label_names or ())} in this order")
    if pa.types.is_integer(labels.type) or (spec.is_regression and pa.types.is_floating(labels.type)):
        return
    known = " or ".join(f"{number} ({name})" for number, name in enumerate(spec.label_names or ()))
    raise UserError(
        f"{where} has {labels.type} in column 'label', first {_first(labels)}; expected "
        f"{known or 'a number from 0 to 5'}"
    )


def _first(column: pyarrow.ChunkedArray) -> str:
    """The first value, for a message; a date beyond the years that Python knows has no repr of its own."""
    try:
        return repr(column[0].as_py())[:80] if len(column) else "nothing"
    except Exception:
        return "a value that Python cannot hold"


def _load(spec: TaskSpec, path: str) -> dict[str, datasets.Dataset]:
    """Return the splits that `spec` needs as they are in the files: train, the evaluation and the hidden ones."""
    local = place(path, "data.path")
    # A hub name is "owner/name"; whatever else it looks like was meant as a directory.
    is_hub_name = path.count("/") == 1 and not path.startswith((".", "/", "~")) and not path.endswith("/")
    if not local.is_dir() and not is_hub_name:
        raise UserError(f"data.path={path!r} is not a directory; give one with the layout of nyu-mll/glue")
    wanted = ("train", *spec.evaluation_splits, *spec.hidden_splits)
    if local.is_dir():
        return {split: _read(local, path, *_source(spec, split)) for split in wanted}
    configs = {config: _download(path, config) for config in sorted({_source(spec, split)[0] for split in wanted})}
    loaded = {}
    for split in wanted:
        config, name = _source(spec, split)
        if name not in configs[config]:
            raise UserError(f"data.path={path!r} has no split {name!r} of {config!r}, only {sorted(configs[config])}")
        loaded[split] = configs[config][name]
    return loaded


def _source(spec: TaskSpec, split: str) -> tuple[str, str]:
    """Return the config and the split of nyu-mll/glue that hold `split`."""
    return ("ax", "test") if split == "ax" else (spec.name, split)


def _read(local: Path, path: str, config: str, split: str) -> datasets.Dataset:
    """Read `local/config/split-*.parquet`."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset

    files = sorted((local / config).glob(f"{split}-*.parquet"))
    if not files:
        raise UserError(
            f"data.path={path!r} has no {config}/{split}-*.parquet, {_found(local, config)}; give a directory with the"
            " files of nyu-mll/glue as they are on the hub"
        )
    counts = {int(match[1]) for file in files if (match := re.search(r"-of-(\d+)\.parquet$", file.name))}
    if counts and counts != {len(files)}:
        raise UserError(
            f"data.path={path!r} has {len(files)} of {max(counts)} files {config}/{split}-*; add the others"
        )
    tables = []
    for file in files:
        try:
            tables.append(pq.ParquetFile(file).read())
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{file} is not a whole Parquet file ({_cause(error)}); fetch it again") from error
    try:
        return Dataset(pa.concat_tables(tables))
    except Exception as error:  # columns that datasets does not know, or features in the file's metadata that are none
        raise UserError(
            f"{files[0]} has columns that datasets cannot hold ({_cause(error)}); write it again"
        ) from error


def _found(local: Path, config: str) -> str:
    """Say what there is instead, for instance MRPC/train.tsv."""
    # The original download calls stsb STS-B.
    folders = [entry for entry in local.iterdir() if entry.is_dir() and entry.name.lower().replace("-", "") == config]
    folder = folders[0] if folders else local
    names = sorted(str(entry.relative_to(local)) for entry in folder.iterdir())
    return f"only {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" if names else "it is empty"


def _download(path: str, config: str) -> datasets.DatasetDict:
    import datasets

    try:
        with _no_progress_bars():
            loaded: Any = datasets.load_dataset(path, config)
            return loaded
    except Exception as error:  # the hub's client raises many unrelated types when it is offline
        raise UserError(
            f"cannot load {path!r}: it is no local directory, and the hub did not give it ({_cause(error)}); download"
            " it elsewhere and give data.path=DIR, or run the offline task=tweets"
        ) from error


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


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
