"""The inside of a transformer: hidden states of its blocks and the values of their attention, kept by hooks.

A hook reads what a module gives out anyway, so attention stays fused and nothing is computed twice.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rwkd_lightning.utils.errors import UserError

POOLS = ("cls", "mean", "tokens")
# the linear layer that gives the values, by the last part of its name in each kind of model
VALUES = frozenset({"value", "v_lin", "v", "value_proj", "v_proj"})


class Tap:
    """Keeps the outputs of L modules during a forward pass.

    Args:
        modules: in the order of the result; each gives out hidden states ``(B, T, H)``, or a tuple that starts with
            them.
        pool: ``cls``: of the first token that is no padding; ``mean``: over all tokens that are none; ``tokens``: all.
        values: whether they are values of the attention.
        time_first: the modules give out ``(T, B, H)``.

    Raises:
        UserError: if the pool is not known.
    """

    def __init__(self, modules: Sequence[nn.Module], pool: str, values: bool = False, time_first: bool = False) -> None:
        if pool not in POOLS:
            raise UserError(f"pool={pool!r} is not known; known are {', '.join(POOLS)}")
        self.pool = pool
        self.values = values
        self.time_first = time_first
        self.kept: list[Tensor | None] = [None] * len(modules)
        self.handles = [m.register_forward_hook(functools.partial(self.keep, place)) for place, m in enumerate(modules)]

    def keep(self, place: int, module: nn.Module, args: Any, output: Any) -> None:
        """The hook."""
        states = output[0] if isinstance(output, tuple) else output
        self.kept[place] = states.transpose(0, 1) if self.time_first else states

    def take(self, mask: Tensor | None) -> Tensor:
        """The outputs that were kept, ``(B, L, H)`` or, of all tokens, ``(B, L, T, H)``; nothing is kept any longer.

        Args:
            mask: ``(B, T)``, 0 for padding; None: there is none.

        Raises:
            UserError: if the network does not call its blocks as modules (SqueezeBERT), so that no hook sees them.
        """
        if any(x is None for x in self.kept):
            raise UserError(
                "the blocks of this model do not show their states; loss terms over layers need another model"
            )
        states = [self.pooled(x, mask) for x in self.kept if x is not None]
        self.kept = [None] * len(self.kept)
        return torch.stack(states, 1)

    def pooled(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """One layer's ``(B, T, H)`` as ``(B, H)``, or as it is."""
        if mask is not None:
            states = states[:, : mask.shape[1]]  # Longformer pads further, to whole windows
        if self.pool == "tokens":
            return states
        if self.pool == "cls":
            return states[:, 0] if mask is None else states[torch.arange(len(mask), device=mask.device), mask.argmax(1)]
        if mask is None:
            return states.mean(1)
        share = mask.to(states.dtype) / mask.sum(1, keepdim=True)
        return (share[..., None] * states).sum(1)

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self.handles:
            handle.remove()


def check_layers(layers: Sequence[int], blocks: Sequence[nn.Module], network: nn.Module) -> None:
    """Raise UserError for a block that does not exist, and for a network that runs one block several times."""
    config: Any = network.config
    if config.is_encoder_decoder:
        raise UserError(
            f"a {config.model_type} has an encoder and a decoder, so the number of a layer does not name one; loss "
            "terms over layers need another model"
        )
    if len(blocks) != config.get_text_config().num_hidden_layers:
        raise UserError(
            f"a {config.model_type} runs the same block several times, so its layers cannot be distinguished; loss "
            "terms over layers need another model"
        )
    wrong = [i for i in layers if not 0 <= i < len(blocks)]
    if wrong:
        raise UserError(f"layer {wrong[0]}: this {config.model_type} has the blocks 0 to {len(blocks) - 1}")


def value_projection(block: nn.Module, network: nn.Module) -> nn.Module:
    """The linear layer of a block that gives the attention's values.

    Raises:
        UserError: if there is none of its own (a model that computes queries, keys and values by one matrix).
    """
    found: list[nn.Module] = [m for n, m in block.named_modules() if is_linear(m) and n.rpartition(".")[2] in VALUES]
    if len(found) != 1:
        config: Any = network.config
        raise UserError(
            f"the attention of a {config.model_type} has no projection of its own for the values, which the term "
            "value_relation reads; use the term hidden"
        )
    return found[0]


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer, or one with an adapter (PEFT) or compiled."""
    inside = getattr(module, "base_layer", None) or getattr(module, "_orig_mod", None) or module
    return isinstance(inside, nn.Linear)
