"""A student of another kind than the teacher's, as the config describes it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch

from rwkd_lightning.systems.text.data.task import TaskSpec
from rwkd_lightning.systems.text.kinds.table import table_of
from rwkd_lightning.systems.text.models.classifier import Classifier
from rwkd_lightning.systems.text.models.loading import problem_of
from rwkd_lightning.systems.text.models.prior import begin_at
from rwkd_lightning.utils.errors import UserError

log = logging.getLogger(__name__)
SIZES = ("hidden_size", "num_hidden_layers", "dropout", "kernel", "embedding_size")
"""Keys of ``pair.student.kind`` beside its name."""


def made(given: Mapping[str, Any], source: str, path: str, task: TaskSpec, tokenizer: Any) -> Classifier:
    """An untrained student.

    Args:
        given: ``pair.student.kind``.
        source: ``pair.student.table``.
        path: of the model whose tokenizer and words it takes.

    Raises:
        UserError: as `table_of`, and for a size that the kind does not have.
    """
    from rwkd_lightning.systems.text.kinds import KINDS

    kind = KINDS[given["name"]]
    sizes = {name: given[name] for name in SIZES if given.get(name) is not None}
    if "kernel" in sizes and given["name"] != "cnn":
        raise UserError(f"pair.student.kind.kernel is of a cnn, and this is a {given['name']}; leave it out")
    if given["name"] == "static" and sizes.get("num_hidden_layers", 1) != 1:
        raise UserError("pair.student.kind.num_hidden_layers: a static student has one layer; leave it out")
    table = table_of(path, source, sizes.get("embedding_size"), tokenizer)
    if table is not None:
        sizes |= {"embedding_size": table.shape[1]}
    rows = max(len(tokenizer), max(tokenizer.get_vocab().values()) + 1) if table is None else len(table)
    options: dict[str, Any] = {"problem_type": problem_of(task), "num_labels": task.num_labels}
    if task.label_names is not None:
        options["id2label"] = dict(enumerate(task.label_names))
        options["label2id"] = {name: number for number, name in enumerate(task.label_names)}
    network = kind(kind.config_class(vocab_size=rows, pad_token_id=tokenizer.pad_token_id, **sizes, **options))
    if table is not None:
        with torch.no_grad():
            network.body.words.weight.copy_(table)
            network.body.words.weight[tokenizer.pad_token_id].zero_()
    student = Classifier(network)
    student.fresh = {name for name, _ in network.named_parameters()}
    if task.label_shares is not None and student.head is not None:
        begin_at(student.head, task.label_shares)
    return student


def told(student: Classifier, given: Mapping[str, Any], source: str) -> str:
    """A line that says what is trained."""
    network: Any = student.network
    whole, words = network.num_parameters(), network.body.words.weight.numel()
    return f"a {given['name']} of {whole - words:,} parameters above {words:,} of its word table (from {source})"
