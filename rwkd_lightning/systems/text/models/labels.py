"""Do the outputs of a fine-tuned classifier mean what the task's labels mean?"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from rwkd_lightning.systems.text.data.task import TaskSpec
from rwkd_lightning.utils.errors import UserError

log = logging.getLogger(__name__)


def output_order(names: Sequence[str], task: TaskSpec, path: str) -> list[int]:
    """For each label of the task, the number of the model's output that stands for it: ``logits[:, order]``.

    Names are compared without case, and with ``-`` and blanks as ``_``. The names that transformers gives where a model
    was saved without any (``LABEL_0``, ...) say nothing: they are taken in the task's order, with a warning.

    Args:
        names: of the model's C outputs.
        task: a classification task with as many labels.
        path: of the model, for messages.

    Raises:
        UserError: if they are other labels.
    """
    assert task.label_names is not None
    found, wanted = [plain(name) for name in names], [plain(name) for name in task.label_names]
    if all(re.fullmatch(r"label_\d+", name) for name in found):
        log.warning(
            "model %r does not name its classes; they are taken as %s, in this order (else set pair.teacher.labels)",
            path,
            ", ".join(task.label_names),
        )
        return list(range(len(names)))
    if sorted(found) != sorted(wanted):
        raise UserError(
            f"model {path!r} has the classes {', '.join(names)}, task {task.name} has {', '.join(task.label_names)}; "
            "give a model of this task, or train a new head on this one (pair.teacher.new_head=true with "
            "pair.teacher.epochs=3, or pair.student.new_head=true), or say what its outputs mean "
            "(pair.teacher.labels=[...])"
        )
    return [found.index(name) for name in wanted]


def plain(name: str) -> str:
    """A label name without the differences in writing."""
    return re.sub(r"[-\s]+", "_", name.strip().lower())
