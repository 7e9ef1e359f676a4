"""The transformers model inside an adapter or a compiled module, and the inputs that reach it."""

from __future__ import annotations

import inspect

from torch import nn

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def unwrapped(network: nn.Module) -> nn.Module:
    """The transformers model inside its wrappers (adapter, ``torch.compile``), or the network itself."""
    from transformers import PreTrainedModel

    return next((module for module in network.modules() if isinstance(module, PreTrainedModel)), network)


def inputs_of(network: nn.Module) -> list[str]:
    """Which of ``INPUTS`` the network reads: a wrapper that passes on all keywords reads what its model reads."""
    taken = inspect.signature(network.forward).parameters
    names = set(taken)
    inside = unwrapped(network)
    if inside is not network and any(p.kind is p.VAR_KEYWORD for p in taken.values()):
        names |= set(inspect.signature(inside.forward).parameters)
    return [name for name in INPUTS if name in names]
