"""The scores of teacher and student on text and picture, on the text alone and on the picture alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rwkd_lightning.systems.multimodal.collection import SCORED, TEST, TRAIN, Collection
from rwkd_lightning.systems.multimodal.fusion import PASSES
from rwkd_lightning.systems.text.metrics import score

Answers = Mapping[str, Tensor]
"""By split ``(N, 3, C)``, as `teacher.answers_of` gives them."""


def scores(data: Collection, said: Answers, place: int = 0) -> dict[str, dict[str, float]]:
    """The scores of each split by what was said in one pass."""
    return {name: score(data.task, said[name][:, place], labels_of(data, name)) for name in SCORED}


def alone(data: Collection, said: Answers) -> dict[str, dict[str, float]]:
    """The scores on test of each pass."""
    labels = labels_of(data, TEST)
    return {kind: score(data.task, said[TEST][:, place], labels) for place, kind in enumerate(PASSES)}


def rows_of(data: Collection, said: Answers) -> dict[str, dict[str, Tensor]]:
    """Of each split ``idx``, ``label`` and the logits as ``output``."""
    return {
        name: {
            "idx": torch.tensor(list(data.splits[name].idx)),
            "label": labels_of(data, name),
            "output": said[name][:, 0],
        }
        for name in SCORED
    }


def labels_of(data: Collection, split: str) -> Tensor:
    """The labels of a split ``(N,)``, of several per row ``(N, C)``."""
    return torch.from_numpy(data.splits[split].labels)


def commonest(data: Collection) -> float:
    """The accuracy on test of saying the commonest class of the training."""
    known = torch.from_numpy(data.splits[TRAIN].labels)
    said = known[known >= 0].bincount().argmax()
    return float((labels_of(data, TEST) == said).float().mean())


def warning(data: Collection, found: Mapping[str, Mapping[str, Any]]) -> str:
    """For a teacher that says less of one modality alone than the commonest class does; empty where it does not."""
    if data.several:
        return ""
    floor = commonest(data)
    weak = [kind for kind in PASSES[1:] if found[kind]["accuracy"] < floor]
    if not weak:
        return ""
    return (
        f"the teacher's answers to the {' and the '.join(weak)} alone are worse on test than the commonest class "
        f"({floor:.3f}); the student learns them from it: raise pair.teacher.modality_dropout, or leave out "
        f"{', '.join('kd_' + kind for kind in weak)}"
    )
