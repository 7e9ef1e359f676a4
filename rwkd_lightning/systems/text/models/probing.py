"""Texts to try a network with: of tokens that it can take, and no longer than it can take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rwkd_lightning.systems.text.models.wrapping import unwrapped

LEFT = frozenset({"xlnet"})
"""Kinds that read a text's last place, whatever stands there; all others count their positions from the first place
on.
"""


def padding_side(kind: str) -> str:
    """The side on which a kind of model (``model_type``) takes padding, so that a text's scores do not depend on it."""
    return "left" if kind in LEFT else "right"


def probe_ids(network: nn.Module, length: int) -> Tensor:
    """``(1, length)`` ids that any kind of network takes: its own first and last token around one ordinary one."""
    outer: Any = unwrapped(network).config
    config = outer.get_text_config()
    names = ("pad_token_id", "bos_token_id", "cls_token_id", "eos_token_id", "sep_token_id", "decoder_start_token_id")
    size = getattr(config, "vocab_size", 1000)  # CANINE takes characters
    special = {name: first(getattr(config, name, None), size) for name in names}
    word = next((i for i in range(size) if i not in special.values()), 0)
    start, end = special["cls_token_id"], special["eos_token_id"]
    start = special["bos_token_id"] if start is None else start
    ids = [word if start is None or start == end else start, *[word] * (length - 2), word if end is None else end]
    return torch.tensor([ids[-length:]])


def first(value: Any, size: int) -> int | None:
    """A special token's id, the first of several; None where the vocabulary of ``size`` tokens lacks it."""
    value = next(iter(value), None) if isinstance(value, list | tuple) else value
    return value if isinstance(value, int) and 0 <= value < size else None


@torch.no_grad()
def taking(network: nn.Module, ids: Tensor) -> Tensor:
    """Logits ``(B, C)`` for ids ``(B, T)`` without padding, in evaluation mode; the network keeps its mode.

    Of a network without a head it is the states ``(B, T, H)`` of its last block.
    """
    was_training = network.training
    ids = ids.to(next(network.parameters()).device)
    network.eval()
    try:
        said = network(input_ids=ids)  # without a mask every token counts
    finally:
        network.train(was_training)
    answer: Tensor = said.logits if "logits" in said else said.last_hidden_state
    return answer


def longest(takes: Callable[[int], bool], below: int) -> int:
    """The largest length below ``below`` that is taken, found by halving; 0 if there is none."""
    low, high = 0, below
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if takes(middle) else (low, middle)
    return low


def pools_by_padding(network: nn.Module) -> bool:
    """Whether the network finds a text's last token by its config's ``pad_token_id``, as decoders do."""
    outer: Any = unwrapped(network).config
    config = outer.get_text_config()
    if config.is_encoder_decoder:
        return False  # finds it by its end token
    ids = torch.tensor([[0] * 7 + [1]])
    before, found = config.pad_token_id, []
    for padding in (0, 1):
        config.pad_token_id = padding
        found.append(taking(network, ids))
    config.pad_token_id = before
    return not torch.equal(found[0], found[1])
