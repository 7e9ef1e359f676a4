"""Loading a sequence classifier as a student or teacher of a task, and refusing what does not fit it."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import nn

from rwkd_lightning.systems.text.data.task import TaskSpec
from rwkd_lightning.systems.text.models.classifier import Classifier, find_blocks
from rwkd_lightning.systems.text.models.depth import cut
from rwkd_lightning.systems.text.models.labels import output_order
from rwkd_lightning.systems.text.models.prior import begin_at
from rwkd_lightning.systems.text.models.probing import padding_side, pools_by_padding
from rwkd_lightning.systems.text.models.source import find
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.model_files import read_config, shards

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


class Kind(NamedTuple):
    """A kind of model with a head, as transformers has it."""

    auto: str
    """The class that loads one."""
    known: str
    """The mapping of ``transformers.models.auto.modeling_auto`` that names all of them."""
    words: str


SEQUENCE = Kind(
    "AutoModelForSequenceClassification", "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING", "sequence classifier"
)


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer that belongs to a model, padding on the side that this kind of model needs, whatever its files say;
    one without a padding token (GPT-2) pads with its end-of-text token.

    Raises:
        UserError: if there is none.
    """
    from transformers import AutoTokenizer

    folder = find(path)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        tokenizer.padding_side = padding_side(read_config(folder, path)["model_type"])
        empty = len(tokenizer) <= len(tokenizer.all_special_tokens)
        if tokenizer.pad_token is None and tokenizer.eos_token is not None:
            tokenizer.pad_token = tokenizer.eos_token
        if not empty:  # what does not work with two texts would fail at the first batch
            tokenizer.pad(tokenizer(["a", "b c"], truncation=True, max_length=8))
    except Exception as error:  # the many tokenizer libraries raise what they like on broken or missing files
        raise UserError(
            f"model {path!r}: its tokenizer cannot be loaded ({_line(error)}); {folder} must hold tokenizer.json "
            "(or what the model's kind of tokenizer needs), as tokenizer.save_pretrained writes it"
        ) from error
    if empty:  # transformers makes one up where the files are missing
        raise UserError(f"model {path!r}: {folder} holds no vocabulary for its tokenizer; add tokenizer.json")
    longest: Any = tokenizer.model_max_length
    if isinstance(longest, bool) or not isinstance(longest, int | float) or not longest >= 1:
        raise UserError(
            f"model {path!r}: its tokenizer_config.json has model_max_length={longest!r}; give a number of tokens"
        )
    return tokenizer


def load_classifier(
    path: str,
    task: TaskSpec,
    layers: Sequence[int] | None = None,
    *,
    new_head: bool = False,
    trained: bool = False,
    labels: Sequence[str] | None = None,
) -> Classifier:
    """A sequence classifier with the task's labels, in float32; its head is new where the checkpoint has none.

    Args:
        path: see ``models.source.find``.
        task: gives the number of outputs and their names.
        layers: indices of the transformer blocks to keep; None keeps all.
        new_head: put a new head in place of the checkpoint's, which was trained for something else.
        trained: the model is used as it is, so it must bring a head. Its outputs keep their own order and names:
            ``Classifier.order`` gives the task's.
        labels: what the outputs mean, in their order; None: what the checkpoint says.

    Raises:
        UserError: if the model cannot be had, lacks one of the layers, or its head is not one for this task.
    """
    options: dict[str, Any] = {"problem_type": problem_of(task)}
    if not trained and task.label_names is not None:
        options["id2label"] = dict(enumerate(task.label_names))
        options["label2id"] = {name: i for i, name in enumerate(task.label_names)}
    folder = find(path)
    network, report, config = load_network(path, task.num_labels, options)
    try:
        classifier = Classifier(network)
        classifier.fresh = set(report["missing_keys"])
        if pools_by_padding(network):
            network.config.get_text_config().pad_token_id = load_tokenizer(path).pad_token_id
    except UserError:
        raise
    except Exception as error:  # a kind that takes no short text, or texts of one length only
        raise UserError(
            f"model {path!r} in {folder} cannot be loaded as a sequence classifier: a {config.model_type} with its "
            f"settings does not read a short text ({_line(error)}); give another model"
        ) from error
    refuse_missing_blocks(network, report["missing_keys"], path)
    refuse_other_shapes(network, report, path)
    outside = [name for name, _ in network.named_parameters() if not name.startswith(f"{network.base_model_prefix}.")]
    fresh = any(name in report["missing_keys"] for name in outside)
    if trained and fresh:
        raise UserError(
            f"model {path!r} has no trained head ({', '.join(outside)} not all in its weights), so it cannot be used "
            "as it is; fine-tune it: pair.teacher.epochs=3"
        )
    if new_head or fresh:
        for key in ("sentence_transformers", "sbert_ce_default_activation_function"):  # of the head before
            vars(network.config).pop(key, None)
    if new_head:
        reset_head(network)
    if (new_head or fresh) and task.label_shares is not None:
        begin_at(classifier.head, task.label_shares)
    if not new_head and not fresh:
        names = [config.id2label[i] for i in range(config.num_labels)]
        if is_sigmoid(read_config(folder, path)) != task.is_multilabel:
            raise UserError(
                f"model {path!r} has a head for one class per text, and task {task.name} has several labels per row; "
                f"give another model, or {NEW_HEAD}"
                if task.is_multilabel
                else f"model {path!r} has a multi-label or sigmoid head (each output a yes or no of its own), and task "
                f"{task.name} has one label per row; give another model, or {NEW_HEAD}"
            )
        order = check_head(names, config.problem_type, task, path, labels)
        if head := mismatched(report):
            name, shapes = head[0]
            held = f" of {list(shapes[0])}" if shapes else " of another size"
            raise UserError(
                f"model {path!r} names {len(names)} outputs in its config.json, and its weights hold {name}{held}; "
                "fetch both again"
            )
        if trained:
            classifier.order = order
        elif order != sorted(order):
            raise UserError(
                f"model {path!r} has the task's classes in another order ({', '.join(names)}); start from a new "
                "head: pair.student.new_head=true (or pair.teacher.new_head=true)"
            )
    if layers is not None:
        cut(network, layers)
    return classifier


def load_network(
    path: str, num_labels: int, options: Mapping[str, Any], kind: Kind = SEQUENCE
) -> tuple[Any, Mapping[str, Any], Any]:
    """A network in float32, what its checkpoint lacked or had otherwise (transformers' report), and its own config.

    Args:
        path: see ``models.source.find``.
        num_labels: its outputs.
        options: for its config.
        kind: which sort of head it has.

    Raises:
        UserError: if it cannot be had or is no such model, or if its weights are far fewer than its config's.
    """
    import transformers
    from transformers import AutoConfig
    from transformers.utils import logging as noise

    noise.set_verbosity_error()
    noise.disable_progress_bar()
    folder, auto = find(path), getattr(transformers, kind.auto)
    check_kind(read_config(folder, path), path, kind)
    # always float32: config.json's dtype would round the weights, and train half-precision models in half precision
    dtype = "dtype" if tuple(map(int, version("transformers").split(".")[:2])) >= (4, 56) else "torch_dtype"
    given: dict[str, Any] = {dtype: torch.float32, **options}
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        check_size(config, tensors(folder, path), path, auto)
        if getattr(config, "attention_type", None) == "block_sparse":
            log.info(
                "model %r: attention_type=original_full in place of block_sparse, which depends on the longest text of"
                " a batch",
                path,
            )
            given["attention_type"] = "original_full"
        network, report = auto.from_pretrained(
            folder,
            num_labels=num_labels,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **given,
        )
        network.float()  # buffers too
    except UserError:
        raise
    except (
        Exception
    ) as error:  # half a file, a config without its numbers, a kind without a classifier: all raise differently
        cut_off = "; if a file is cut off, fetch it again" if isinstance(error, SafetensorError | OSError) else ""
        raise UserError(
            f"model {path!r} in {folder} cannot be loaded as a {kind.words} ({_line(error)}){cut_off}"
        ) from error
    return network, report, config


NEW_HEAD = (
    "train a new head on it: pair.student.new_head=true, or pair.teacher.new_head=true with pair.teacher.epochs=3"
)


def problem_of(task: TaskSpec) -> str:
    """What transformers calls this kind of task."""
    if task.is_multilabel:
        return "multi_label_classification"
    return "regression" if task.is_regression else "single_label_classification"


def check_kind(config: Mapping[str, Any], path: str, kind: Kind) -> None:
    """Raise UserError for a kind of model that never has such a head."""
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if CONFIG_MAPPING[config["model_type"]] not in getattr(modeling_auto, kind.known):
        raise UserError(
            f"model {path!r} is a {config['model_type']}, for which transformers has no {kind.words}; give a model of "
            "another kind"
        )


def is_sigmoid(config: Mapping[str, Any]) -> bool:
    """Whether a config's head is one of sigmoid outputs: by its problem type, or as a cross-encoder of
    sentence-transformers.
    """
    own = config.get("sentence_transformers")
    activation = (
        own.get("activation_fn") if isinstance(own, Mapping) else config.get("sbert_ce_default_activation_function")
    )
    return config.get("problem_type") == "multi_label_classification" or str(activation).endswith(".Sigmoid")


def check_head(
    names: Sequence[str], problem: str | None, task: TaskSpec, path: str, labels: Sequence[str] | None
) -> list[int]:
    """The order of a trained head's outputs for the task's labels; UserError if it is a head for something else."""
    is_regression = problem == "regression" or len(names) == 1
    if is_regression != task.is_regression:
        have, want = ("a regression", "a classification") if is_regression else ("a classification", "a regression")
        raise UserError(
            f"model {path!r} has {have} head ({len(names)} outputs), task {task.name} is {want}; give another model, "
            f"or {NEW_HEAD}"
        )
    if len(names) != task.num_labels:
        raise UserError(
            f"model {path!r} has {len(names)} labels ({', '.join(names)}), task {task.name} has {task.num_labels}; "
            f"give another model, or {NEW_HEAD}"
        )
    if task.is_regression:
        return [0]
    if labels is not None and len(labels) != len(names):
        raise UserError(
            f"pair.teacher.labels={list(labels)} names {len(labels)} classes, model {path!r} has {len(names)} "
            "outputs; name each output once, in order"
        )
    return output_order(labels or names, task, path)


def refuse_missing_blocks(network: nn.Module, missing: Sequence[str], path: str) -> None:
    """Refuse a checkpoint of something else, most of which would start from random numbers."""
    blocks, _ = find_blocks(network)
    lost = [name for name in missing if name.startswith(f"{blocks}.")]
    if lost:
        raise UserError(
            f"model {path!r}: its weights lack {len(lost)} tensors of the transformer blocks, as {min(lost)}; they "
            "are of another model than its config.json, or cut off"
        )


def mismatched(report: Mapping[str, Any]) -> list[tuple[str, list[Any]]]:
    """Weights of another shape than the config's, sorted: each name, and both shapes where transformers gives them (not
    4.57).
    """
    entries = [(entry,) if isinstance(entry, str) else entry for entry in report["mismatched_keys"]]
    return sorted((name, list(shapes)) for name, *shapes in entries)


def refuse_other_shapes(network: nn.Module, report: Mapping[str, Any], path: str) -> None:
    """Refuse a backbone's weights that are not those of config.json: transformers fills in random ones."""
    of = f"model {path!r}: its weights are of another model than its config.json"
    inside = f"{network.base_model_prefix}."
    for name, shapes in mismatched(report):
        if name.startswith(inside):
            says = f"is {list(shapes[0])}, and by the config {list(shapes[1])}" if shapes else "has another size"
            raise UserError(f"{of} ({name} {says}); fetch both again")
    lost = [name for name in report["missing_keys"] if name.startswith(inside) and "embeddings." in name]
    if lost:
        raise UserError(f"{of} (no {min(lost)}); fetch both again")
    name, blocks = find_blocks(network)
    pattern = re.compile(rf"(?:^|\.){re.escape(name.removeprefix(inside))}\.(\d+)\.")
    beyond = [n for n in report["unexpected_keys"] if (found := pattern.search(n)) and int(found[1]) >= len(blocks)]
    if beyond:
        raise UserError(
            f"{of} ({min(beyond)}, where the config has {len(blocks)} blocks); to keep some of the blocks use "
            "pair.student.layers"
        )


def tensors(folder: Path, path: str) -> dict[str, int]:
    """How many numbers each tensor of the weights has, from the files' headers."""
    from safetensors import safe_open

    sizes: dict[str, int] = {}
    for name in shards(folder, path):
        with safe_open(folder / name, "pt") as file:
            sizes |= {key: math.prod(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 - no mapping
    return sizes


def check_size(config: Any, given: Mapping[str, int], path: str, auto: Any) -> None:
    """Refuse a config.json of a far larger model than its weights, before memory is asked for it.

    Args:
        auto: the class of transformers that makes it of its config.
    """
    blocks = getattr(config, "num_hidden_layers", 0)
    wanted = math.inf
    if isinstance(blocks, int) and blocks <= max(100, len(given)):  # each takes time, also without memory
        with torch.device("meta"):
            wanted = sum(p.numel() for p in auto.from_config(config).parameters())
    if wanted > 2 * sum(given.values()) + 10_000_000:  # a pooler and a head may be new
        size = f"{wanted:,} parameters" if wanted < math.inf else f"{blocks} blocks"
        raise UserError(
            f"model {path!r}: its config.json describes a model of {size}, its weights hold "
            f"{sum(given.values()):,}; they are of another model, or cut off"
        )


def reset_head(network: nn.Module) -> None:
    """Draw everything outside the backbone again."""
    prefix = network.base_model_prefix
    for name, child in network.named_children():
        if name != prefix:
            for module in child.modules():
                reset = getattr(module, "reset_parameters", None)
                if callable(reset):
                    reset()


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]
