"""What the training reads of the teacher, whatever it is: one model, several, or columns of the data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import Tensor, nn

from rwkd_lightning.run.system import Run, Teacher
from rwkd_lightning.systems.text import teacher as stages
from rwkd_lightning.systems.text.data.task import TaskData
from rwkd_lightning.utils.errors import UserError

FILE = "file"
"""The path of a teacher that is no model: its outputs are columns of the data."""
MEMBER = "logits_{}"
"""The output of one of several teachers, from 1, for a term of its own; ``logits`` is their mean."""


@dataclass(frozen=True)
class TeacherOutputs:
    """The teacher's outputs by split, and the models that they are of."""

    logits: Mapping[str, Tensor]
    """``(N, C)``; 0 in a row of which the teacher says nothing."""
    known: Mapping[str, Tensor] = field(default_factory=dict)
    """``(N,)``, False in such rows; splits without any are not there."""
    models: Sequence[Teacher] = ()
    members: Sequence[Mapping[str, Tensor]] = ()
    """The logits of each of several models."""

    @property
    def states(self) -> dict[str, Tensor]:
        """``teacher_logits_1`` and so on of the training rows, where there are several."""
        return {f"teacher_{MEMBER.format(i)}": one["train"] for i, one in enumerate(self.members, 1)}

    @property
    def whole(self) -> Teacher | None:
        """The models together; None where there is none."""
        if not self.models:
            return None
        seconds = [model.train_seconds for model in self.models if model.train_seconds is not None]
        return Teacher(
            self.models[0].folder,
            sum(model.bytes for model in self.models),
            sum(seconds) if seconds else None,
            self.models[0].labels,
        )


class Ensemble(nn.Module):
    """Several classifiers as one, each with tokens of its own, to be timed; its logits are their mean.

    Args:
        networks: called with the entries of the batch that `together` has named after their place.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``logits`` ``(B, C)``."""
        found = []
        for i, network in enumerate(self.networks):
            prefix = f"{i}."
            mine = {name.removeprefix(prefix): x for name, x in batch.items() if name.startswith(prefix)}
            found.append(network(mine)["logits"])
        return {"logits": torch.stack(found).mean(0)}


def together(batches: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The batches of the same rows for several networks as one."""
    named = {f"{i}.{name}": value for i, batch in enumerate(batches) for name, value in batch.items()}
    return {**named, "index": batches[0]["index"]}


def paths_of(config: DictConfig) -> list[str]:
    """The models that are the teacher; none where its outputs are in a file."""
    path = config.pair.teacher.path
    if path == FILE:
        return []
    return [str(one) for one in path] if isinstance(path, ListConfig) else [path]


def each_of(config: DictConfig) -> list[DictConfig]:
    """A config for each of these models, with that one alone as the teacher."""
    found = []
    for path in paths_of(config):
        one: Any = config.copy()
        OmegaConf.update(one, "pair.teacher.path", path)
        found.append(one)
    return found


def check_source(config: DictConfig, data: TaskData) -> None:
    """Refuse settings of the teacher that do not go together, before anything is trained.

    Raises:
        UserError: for a file of outputs without columns of them, and columns without ``pair.teacher=file``.
    """
    path, there = config.pair.teacher.path, bool(data.teacher_logits)
    if path == FILE and not there:
        raise UserError(
            "pair.teacher=file takes the teacher's outputs from columns of the data, and none are named; give "
            "data.teacher_probabilities=[COLUMN,COLUMN], data.teacher_logits or data.teacher_logprobs with task=table"
        )
    if there and path != FILE:
        raise UserError(
            f"the data bring the teacher's outputs (data.teacher_...), and pair.teacher.path={path} names a model; "
            "add pair.teacher=file, or leave out the columns"
        )
    if path == FILE and not bool((~torch.from_numpy(data.teacher_logits["train"]).isnan()).any()):
        raise UserError("the columns of the teacher's outputs are empty in all training rows; fill some")
    if config.pair.student.path == "teacher" and len(paths_of(config)) != 1:
        raise UserError(
            "pair.student.path=teacher starts from the teacher's weights, and there is not one model that has them; "
            "name the student's own"
        )
    if len(paths_of(config)) > 1 and config.pair.teacher.labels is not None:
        raise UserError(
            "pair.teacher.labels says what the outputs of one teacher mean, and there are several; put the names into "
            "each model's config.json (id2label)"
        )
    if config.pair.teacher.mean == "probabilities" and data.task.is_regression and len(paths_of(config)) > 1:
        raise UserError("pair.teacher.mean=probabilities has no meaning for a regression; use pair.teacher.mean=logits")


def of_data(data: TaskData) -> TeacherOutputs:
    """The outputs that the data bring."""
    logits = {split: torch.from_numpy(values) for split, values in data.teacher_logits.items()}
    known = {split: ~values.isnan().any(1) for split, values in logits.items()}
    return TeacherOutputs(
        {split: values.nan_to_num(0.0) for split, values in logits.items()},
        {split: rows for split, rows in known.items() if not bool(rows.all())},
    )


def of_models(config: DictConfig, data: TaskData, run: Run) -> TeacherOutputs:
    """The outputs of the models, trained and computed now or before."""
    configs = each_of(config)
    models = [stages.teacher_of(one, data, run) for one in configs]
    found = [stages.logits(one, model, data, run.store, run.device) for one, model in zip(configs, models, strict=True)]
    if len(found) == 1:
        return TeacherOutputs(found[0], models=models)
    mean = mean_of_logits
    if config.pair.teacher.mean == "probabilities":
        mean = mean_of_label_probabilities if data.task.is_multilabel else mean_of_probabilities
    return TeacherOutputs(
        {split: mean([one[split] for one in found]) for split in found[0]}, models=models, members=found
    )


def mean_of_logits(members: Sequence[Tensor]) -> Tensor:
    """Their mean ``(N, C)``: the geometric mean of the probabilities, made to have the sum 1."""
    return torch.stack(list(members)).mean(0)


def mean_of_probabilities(members: Sequence[Tensor]) -> Tensor:
    """The logarithm ``(N, C)`` of the mean of their probabilities at temperature 1."""
    return torch.stack([one.log_softmax(1) for one in members]).logsumexp(0) - math.log(len(members))


def mean_of_label_probabilities(members: Sequence[Tensor]) -> Tensor:
    """The log-odds ``(N, C)`` of the mean of their probabilities at temperature 1, each label on its own."""
    logits = torch.stack(list(members))
    return F.logsigmoid(logits).logsumexp(0) - F.logsigmoid(-logits).logsumexp(0)
