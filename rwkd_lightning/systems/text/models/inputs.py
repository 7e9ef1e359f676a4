"""Do a model and its tokenizer go together, and is a text's answer its own? Asked before anything is trained."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rwkd_lightning.systems.text.data.collate import Collator
from rwkd_lightning.systems.text.models.probing import longest
from rwkd_lightning.utils.errors import UserError

REFUSALS = (IndexError, RuntimeError, ValueError, AssertionError)
"""The exceptions that the kinds of models raise for too many tokens, or for others than they need."""


@torch.no_grad()
def check_inputs(classifier: nn.Module, tokenizer: Any, max_length: int, path: str) -> None:
    """Run texts of its tokenizer through the model, so that what it cannot take fails now and not in epoch 2.

    Args:
        classifier: batch to logits by name; its attribute ``network`` is transformers' own.

    Raises:
        UserError: if the vocabulary is larger than the model's, a text of ``max_length`` tokens too long for it, or its
            answer to a text another one beside a longer text.
    """
    network: Any = classifier.network
    config = network.config.get_text_config()
    rows = getattr(config, "vocab_size", math.inf)  # CANINE hashes characters
    with suppress(NotImplementedError):
        rows = network.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise UserError(
            f"model {path!r}: its tokenizer has {len(tokenizer)} tokens, its embedding {rows}; the tokenizer is of "
            "another model"
        )
    if tokenizer.pad_token_id is not None and config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id  # without it GPT-2 and its kind take one text at a time
    was_training = network.training
    network.eval()
    try:
        check_length(classifier, tokenizer, max_length, path)
        check_neighbours(classifier, tokenizer, max_length, path)
    finally:
        network.train(was_training)


def answer(classifier: nn.Module, tokenizer: Any, *lengths: int) -> dict[str, Tensor]:
    """Logits and features for texts of so many tokens in one batch."""
    device = next(classifier.parameters()).device
    batch = Collator(tokenizer)([text_of(tokenizer, n) for n in lengths])
    outputs = classifier({key: value.to(device) for key, value in batch.items()})
    return {name: value for name, value in outputs.items() if name in ("logits", "features")}


def check_length(classifier: nn.Module, tokenizer: Any, max_length: int, path: str) -> None:
    """Raise UserError if the model has no answer to a text of ``max_length`` tokens."""

    def takes(length: int) -> bool:
        try:
            answer(classifier, tokenizer, length)
        except REFUSALS:
            return False
        return True

    try:
        logits = answer(classifier, tokenizer, max_length)["logits"]
    except REFUSALS as error:
        if "memory" in str(error):  # no limit of the model's
            raise
        if limit := longest(takes, max_length):
            raise UserError(
                f"data.max_length is {max_length}, but model {path!r} takes {limit} tokens at most; give "
                f"data.max_length={limit}"
            ) from error
        raise unreadable(classifier, path, error) from error
    if not bool(logits.isfinite().all()):
        raise UserError(
            f"model {path!r} returns {logits[0].tolist()} for a text of {max_length} tokens: its weights are broken; "
            "download it again"
        )


def check_neighbours(classifier: nn.Module, tokenizer: Any, max_length: int, path: str) -> None:
    """Raise UserError if the model answers a short text differently alone and beside a longer one, for padding."""
    short = sorted({min(max_length, n) for n in range(3, 8)})
    try:
        each = [answer(classifier, tokenizer, n) for n in short]
        beside = answer(classifier, tokenizer, *short, min(max_length, 64))
    except REFUSALS as error:
        raise unreadable(classifier, path, error) from error
    alone = {name: torch.cat([one[name] for one in each]) for name in each[0]}
    if any(
        float((beside[name][: len(short)] - one).abs().max()) > 1e-3 * float(one.abs().max())
        for name, one in alone.items()
    ):
        kind = classifier.network.config.model_type  # type: ignore[union-attr]
        raise UserError(
            f"model {path!r}: what a {kind} says of a text depends on the padding, so on the texts beside it in a "
            "batch; give a model of another kind, as BERT or DistilBERT"
        )


def unreadable(classifier: nn.Module, path: str, error: Exception) -> UserError:
    """A model that cannot read some texts of its tokenizer, and not for their length alone."""
    kind = classifier.network.config.model_type  # type: ignore[union-attr]
    reason = " ".join(str(error).split())[:160]
    return UserError(
        f"model {path!r}: a {kind} cannot read some of its tokenizer's texts ({reason}); give a model whose "
        "tokenizer goes with it, or one of another kind"
    )


def text_of(tokenizer: Any, length: int) -> dict[str, Any]:
    """A row for ``Collator``: a text of so many tokens, ordinary ones that differ between the tokenizer's own first and
    last.
    """
    own = set(tokenizer.all_special_ids)
    words = np.array([i for i in range(len(tokenizer)) if i not in own])
    one = tokenizer("a", return_special_tokens_mask=True, return_attention_mask=False)
    added = np.array(one.pop("special_tokens_mask"), dtype=bool)
    start = int(added.argmin())
    end = len(added) - start - int((~added).sum())
    inside = max(1, length - start - end)
    row: dict[str, Any] = {"label": torch.tensor(0), "index": 0}
    for name, given in one.items():
        values = np.array(given, dtype=np.int64)
        row[name] = np.concatenate([values[:start], np.repeat(values[start], inside), values[len(values) - end :]])
    row["input_ids"][start : start + inside] = words[
        np.arange(inside) * 7919 % len(words)
    ]  # a prime: any order but a run
    return row
