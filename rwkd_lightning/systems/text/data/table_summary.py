"""A plain summary of a table before anything is trained: what was understood, and what looks wrong."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from rwkd_lightning.systems.text.data.task import TaskSpec

log = logging.getLogger(__name__)
IMBALANCED = 10
"""Times as many rows in the largest class as in the smallest, from which on it is reported."""
LISTED = 20


def summarise(
    task: TaskSpec,
    rows: Mapping[str, np.ndarray],
    texts: Mapping[str, Sequence[Sequence[str]]],
    keys: Mapping[str, Sequence[str]],
    groups: Sequence[Hashable],
    labels: Mapping[str, np.ndarray],
) -> None:
    """Log rows, classes, lengths, copies and contradictions.

    Args:
        rows: of each split, within the table of its name or, where it was cut out, of ``train``.
        texts: by table and column.
        keys: of the rows by table: equal for equal texts.
        groups: of the rows of ``train``: equal for equal texts, or for rows of one group.
        labels: by table.
    """
    words = np.array([sum(len(part.split()) for part in row) for row in zip(*texts["train"], strict=True)])
    log.info("%s", ", ".join(f"{name} {len(rows[name])} rows" for name in ("train", "meta", "validation", "test")))
    named = " and ".join(task.text_columns)
    log.info("text %s: %d words in the median, %d in the longest", named, np.median(words), words.max())
    lacking = task.lacks_label(labels["train"])
    if lacking.any():
        log.info("%d training rows have no label: the teacher alone teaches them", lacking.sum())
    classes: dict[Hashable, set[Any]] = defaultdict(set)
    for group, label, lacks in zip(groups, labels["train"].tolist(), lacking.tolist(), strict=True):
        classes[group] |= set() if lacks else {label}
    if copies := len(groups) - len(classes):
        log.info("%d rows repeat the text, or belong to the group, of another one: no cut parts them", copies)
    trained = set(keys["train"])
    for name in ("validation", "test"):
        if name in keys and (shared := sum(key in trained for key in keys[name])):
            log.warning("%d of the %d rows of data.%s have a text of data.train", shared, len(labels[name]), name)
    known = labels["train"][~lacking]
    if task.label_names is None:
        log.info("labels from %g to %g, %.3g in the mean", known.min(), known.max(), known.mean())
        return
    if conflicts := sum(len(labels_of) > 1 for labels_of in classes.values()):
        kind = "of several classes" if task.label_sets is None else "with different labels"
        log.warning("%d texts (or groups) have rows %s", conflicts, kind)
    if task.label_sets is not None:
        of_sets(task, rows, labels, known)
        return
    counts = Counter(known.tolist())
    more = ", ..." if len(task.label_names) > LISTED else ""
    listed = [f"{name} {counts[number]}" for number, name in enumerate(task.label_names[:LISTED])]
    log.info("classes: %s%s", ", ".join(listed), more)
    (most, many), (least, few) = counts.most_common()[0], counts.most_common()[-1]
    if many >= IMBALANCED * few:
        names = task.label_names
        log.warning("class %r has %d rows, class %r %d: look at macro_f1", names[most], many, names[least], few)
    for name in ("validation", "test"):
        seen = set(labels[name if name in labels else "train"][rows[name]].tolist())
        for number in sorted(set(range(len(task.label_names))) - seen)[:1]:
            log.warning("no row of %s has class %r", name, task.label_names[number])


def of_sets(
    task: TaskSpec, rows: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray], known: np.ndarray
) -> None:
    """Log how many rows have each of several labels, how many a row has, and which a split lacks."""
    names, sets = task.label_names or (), task.label_sets or ()
    counts = Counter(number for one in known.tolist() for number in sets[one])
    sizes = np.array([len(sets[one]) for one in known.tolist()])
    more = ", ..." if len(names) > LISTED else ""
    listed = [f"{name} {counts[number]}" for number, name in enumerate(names[:LISTED])]
    log.info("labels: %s%s", ", ".join(listed), more)
    log.info(
        "%.2f labels per row in the mean, %d at most; %d rows have none", sizes.mean(), sizes.max(), (sizes == 0).sum()
    )
    (most, many), (least, few) = counts.most_common()[0], counts.most_common()[-1]
    if many >= IMBALANCED * few:
        log.warning("label %r has %d rows, label %r %d: look at macro_f1", names[most], many, names[least], few)
    for name in ("validation", "test"):
        seen = task.classes_in(labels[name if name in labels else "train"][rows[name]])
        if lacking := [label for number, label in enumerate(names) if number not in seen]:
            log.warning("no row of %s has the label(s) %s", name, ", ".join(lacking))
