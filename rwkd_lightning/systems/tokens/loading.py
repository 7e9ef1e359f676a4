"""Loading a token classifier as a student or teacher, and refusing what does not fit the data's tags."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

from rwkd_lightning.systems.text.models.depth import cut
from rwkd_lightning.systems.text.models.inputs import check_inputs
from rwkd_lightning.systems.text.models.loading import (
    Kind,
    load_network,
    load_tokenizer,
    mismatched,
    refuse_missing_blocks,
    refuse_other_shapes,
    reset_head,
)
from rwkd_lightning.systems.tokens.tagger import FirstWord, Tagger
from rwkd_lightning.utils.errors import UserError

log = logging.getLogger(__name__)
TOKEN = Kind("AutoModelForTokenClassification", "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING", "token classifier")
NEW_HEAD = (
    "train a new head on it: pair.student.new_head=true, or pair.teacher.new_head=true with pair.teacher.epochs=3"
)


def load_tagger(
    path: str,
    tags: Sequence[str],
    layers: Sequence[int] | None = None,
    *,
    new_head: bool = False,
    trained: bool = False,
    names: Sequence[str] | None = None,
) -> Tagger:
    """A token classifier with an output for each tag, in float32; its head is new where the checkpoint has none.

    Args:
        path: see ``utils.model_files.find``.
        tags: of the data, in the order of the logits.
        layers: indices of the transformer blocks to keep; None keeps all.
        new_head: put a new head in place of the checkpoint's.
        trained: the model is used as it is, so it must bring a head; its outputs keep their own order and names, and
            the tagger gives them in the data's order.
        names: what the outputs of such a model mean; None: what its config.json says.

    Raises:
        UserError: if the model cannot be had, lacks one of the layers, or its head has other tags.
    """
    options: dict[str, Any] = {}
    if not trained:
        options["id2label"] = dict(enumerate(tags))
        options["label2id"] = {tag: number for number, tag in enumerate(tags)}
    network, report, config = load_network(path, len(tags), options, TOKEN)
    refuse_missing_blocks(network, report["missing_keys"], path)
    refuse_other_shapes(network, report, path)
    outside = [name for name, _ in network.named_parameters() if not name.startswith(f"{network.base_model_prefix}.")]
    fresh = any(name in report["missing_keys"] for name in outside)
    if trained and fresh:
        raise UserError(
            f"model {path!r} has no trained head of a token classifier ({', '.join(outside)} not all in its weights), "
            "so it cannot be used as it is; fine-tune it: pair.teacher.epochs=3"
        )
    order = None
    if new_head:
        reset_head(network)
    elif not fresh:
        own = [config.id2label[i] for i in range(config.num_labels)]
        if mismatched(report) and len(own) == len(tags):
            raise UserError(
                f"model {path!r} names {len(own)} outputs in its config.json, and its weights hold another number; "
                "fetch both again"
            )
        order = order_of(own if names is None else names, tags, path, len(own))
        if not trained and order != sorted(order):
            raise UserError(
                f"model {path!r} has the tags in another order ({', '.join(own)}); start from a new head: "
                "pair.student.new_head=true (or pair.teacher.new_head=true)"
            )
    if layers is not None:
        cut(network, layers)
    return Tagger(network, order if trained else None)


def order_of(names: Sequence[str], tags: Sequence[str], path: str, outputs: int) -> list[int]:
    """For each tag of the data, the number of the model's output that stands for it.

    The names that transformers gives where a model was saved without any (``LABEL_0``, ...) say nothing: they are taken
    in the data's order, with a warning.

    Raises:
        UserError: if they are other tags.
    """
    if len(names) != outputs:
        raise UserError(
            f"pair.teacher.labels={list(names)} names {len(names)} tags, model {path!r} has {outputs} outputs; name "
            "each output once, in order"
        )
    if len(names) == len(tags) and all(re.fullmatch(r"LABEL_\d+", name) for name in names):
        log.warning(
            "model %r does not name its tags; they are taken as %s, in this order (else set pair.teacher.labels)",
            path,
            ", ".join(tags),
        )
        return list(range(len(tags)))
    if sorted(names) != sorted(tags):
        raise UserError(
            f"model {path!r} has the tags {', '.join(names)}, and the data have {', '.join(tags)}; give a model of "
            "these tags, say what its outputs mean (pair.teacher.labels=[...] with pair.teacher.epochs=0), or "
            f"{NEW_HEAD}"
        )
    return [list(names).index(tag) for tag in tags]


def load_word_tokenizer(path: str) -> Any:
    """The tokenizer that belongs to a model, ready to take sentences as lists of words.

    Raises:
        UserError: if there is none, or if it does not tell which word a token is of.
    """
    tokenizer: Any = load_tokenizer(path)
    if not tokenizer.is_fast:
        raise UserError(
            f"model {path!r}: its tokenizer ({type(tokenizer).__name__}) is a slow one, which does not tell which word "
            "a token is of; give a model with a tokenizer.json"
        )
    if getattr(tokenizer, "add_prefix_space", None) is False:  # as of GPT-2 and RoBERTa: words are parts of a text
        from transformers import AutoTokenizer

        folder = tokenizer.name_or_path
        side, pad = tokenizer.padding_side, tokenizer.pad_token
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, add_prefix_space=True)
        tokenizer.padding_side, tokenizer.pad_token = side, pad
    return tokenizer


def check_tagger(tagger: Tagger, tokenizer: Any, max_length: int, path: str) -> None:
    """Raise UserError if the model cannot take texts of its tokenizer, or answers by the padding beside them."""
    if max_length < 3:
        raise UserError(f"data.max_length is {max_length}; a sentence needs 3 tokens at least")
    check_inputs(FirstWord(tagger), tokenizer, max_length, path)
