"""Loss terms that look inside the models: what they read of the teacher, cached where it is one state per sample."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from safetensors.torch import save_file
from torch import Tensor

from rwkd_lightning.cache.store import Store, tensors
from rwkd_lightning.meta import Restriction
from rwkd_lightning.run.build import create
from rwkd_lightning.run.identity import keyed, only
from rwkd_lightning.run.predict import predict
from rwkd_lightning.run.system import Teacher
from rwkd_lightning.systems.text import teacher as stages
from rwkd_lightning.systems.text.data.encoding import same_tokens
from rwkd_lightning.systems.text.data.task import TaskData, TaskSpec
from rwkd_lightning.systems.text.heads.stage import layer_logits
from rwkd_lightning.systems.text.models import Classifier, fingerprint, load_classifier, load_tokenizer
from rwkd_lightning.systems.text.teacher_outputs import MEMBER, paths_of
from rwkd_lightning.systems.text.terms.of_layers import answers_key
from rwkd_lightning.terms import Term
from rwkd_lightning.training.compatibility import check_outputs, check_reach
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting import Weighting

log = logging.getLogger(__name__)


@dataclass
class Inside:
    """The teacher's outputs beyond its logits that the training reads."""

    states: dict[str, Tensor] = field(default_factory=dict)
    """``teacher_<name>`` ``(N, L, H)`` of the training rows, for terms over one state per sample."""
    teacher: Classifier | None = None
    """Runs along, for terms over tokens."""
    tokenizer: Any = None
    """Its tokenizer, where it runs along: the same tokens as the student's, and all that either model reads of them."""


def looking_inside(terms: Sequence[Term]) -> list[Term]:
    """The terms that read more than logits, of the student or of the teacher."""
    return [term for term in terms if set(term.reads) != {"logits"} or of_heads(term)]


def of_heads(term: Term) -> bool:
    """Whether a term reads what the teacher's blocks would answer."""
    return bool(getattr(term, "of_heads", False))


def check_inside(
    config: DictConfig, task: TaskSpec, terms: Sequence[Term], weighting: Weighting, student: Classifier, tokenizer: Any
) -> None:
    """Refuse terms that do not fit the pair or the meta step, before the teacher is trained.

    Raises:
        UserError: as the terms' ``connect``, ``same_tokens`` and ``compatibility.check_reach`` raise.
    """
    inside, paths = looking_inside(terms), paths_of(config)
    if inside and len(paths) != 1:
        raise UserError(
            f"the term {inside[0].name!r} reads the states of one teacher, and there "
            + (f"are {len(paths)} teachers" if paths else "is no model of it (pair.teacher=file)")
            + "; leave it out of terms=, or give one model"
        )
    if inside:
        path = paths[0]
        teacher = load_classifier(path, task, new_head=True)
        theirs = load_tokenizer(path)
        for term in inside:
            term.connect(student, teacher)
            if term.per_token and config.data.overflow == "windows":
                raise UserError(
                    f"the term {term.name!r} compares student and teacher token by token, and data.overflow=windows "
                    "reads a long text's tokens in several windows; use data.overflow=truncate, or the term hidden"
                )
            if term.per_token and not same_tokens(tokenizer, theirs):
                raise UserError(
                    f"the term {term.name!r} compares student and teacher token by token, and the tokenizers of "
                    f"{config.pair.student.path!r} and {path!r} differ; take a pair with one tokenizer, or the term "
                    "hidden, which compares whole texts"
                )
            for name, its in ((config.pair.student.path, tokenizer), (path, theirs)):
                getattr(term, "check_tokenizer", lambda *_: None)(its, name)
    members = [MEMBER.format(i) for i in range(1, len(paths) + 1)] if len(paths) > 1 else []
    check_outputs(terms, {"logits", "features", *student.kept_layers}, {"logits", *student.kept_layers, *members})
    theta: Restriction = create(config, "meta.theta", Restriction)
    check_reach(terms, weighting, theta, student)


def inside_of(
    config: DictConfig,
    terms: Sequence[Term],
    student: Classifier,
    teachers: Sequence[Teacher],
    data: TaskData,
    store: Store,
    device: torch.device,
) -> Inside:
    """Connect student and teacher, and compute or find what the terms read of the teacher."""
    result = Inside()
    inside = looking_inside(terms)
    if not inside:
        return result
    (teacher,) = teachers
    network = stages.load(teacher, data)
    for term in inside:
        term.connect(student, network)
    for pool in dict.fromkeys(str(term.pool) for term in inside if of_heads(term)):
        result.states[answers_key(pool)] = layer_logits(config, teacher, network, data, pool, store, device)
    for term in inside:
        for name in term.reads:
            if name in network.kept_layers and not term.per_token:
                result.states[f"teacher_{name}"] = states(config, name, network, teacher, data, store, device)
                network.drop(name)
    if any(term.per_token for term in inside):
        result.teacher = network
        result.tokenizer = load_tokenizer(str(teacher.folder))
    return result


def states(
    config: DictConfig,
    name: str,
    network: Classifier,
    teacher: Teacher,
    data: TaskData,
    store: Store,
    device: torch.device,
) -> Tensor:
    """The teacher's output ``name`` ``(N, L, H)`` of the training rows in float16: from the cache, or computed now."""
    key = {
        "teacher": fingerprint(teacher.folder),
        "settings": keyed(config, stages.LOGITS),
        "output": network.describe(name),
        "data": data.fingerprint("train"),
    }

    def build(folder: Path) -> None:
        given = only(config, stages.LOGITS)
        loader = stages.loaders_of(given, teacher, data, store).dataloader("train")
        computed = predict(
            network,
            loader,
            len(data.splits["train"]),
            device,
            f"teacher {name}: train",
            str(given.pair.teacher.precision),
            output=name,
            dtype=torch.float16,
        )
        if not bool(computed.isfinite().all()):
            raise UserError(
                f"the teacher's {name} do not fit into float16, in which they are cached; its weights are broken, or "
                "its scale is beyond any model known here"
            )
        save_file(
            {"hidden": computed},  # under one name: two terms may keep the same layers
            folder / "states.safetensors",
        )

    folder = store.get("states", key, build, about=f"{data.task.name}: {name} of {config.pair.teacher.path}")
    return tensors(folder / "states.safetensors", {"hidden": (len(data.splits["train"]), None, None)})["hidden"]
