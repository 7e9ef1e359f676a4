"""A Hugging Face token classifier as the rest of the package sees it: sentences in, logits of their words out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rwkd_lightning.systems.text.models.classifier import find_blocks, find_head, names_from_last_block
from rwkd_lightning.systems.text.models.wrapping import inputs_of


class Tagger(nn.Module):
    """Wraps a token classifier; what it says of a word is what it says of the word's first token.

    Args:
        network: any ``AutoModelForTokenClassification`` with C outputs.
        order: of a teacher used as it is, the output that stands for each tag of the data; None: as they are.
    """

    def __init__(self, network: Any, order: list[int] | None = None) -> None:
        super().__init__()
        self.network = network
        self.order = order
        self.inputs = inputs_of(network)
        self._head_name = find_head(network)
        self._captured: Tensor | None = None
        if self.head is not None:
            self.head.register_forward_pre_hook(self._capture)

    @property
    def head(self) -> nn.Linear | None:
        """The linear layer that gives the logits; None if the last layer is not linear."""
        module = self.network.get_submodule(self._head_name) if self._head_name else None
        return module if isinstance(module, nn.Linear) else None

    def _capture(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        self._captured = args[0]

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``logits`` ``(B, W, C)`` and, where their layer is linear, its inputs as ``features`` ``(B, W, H)``.

        ``starts`` ``(B, W)`` of the batch is the place of each word's first token in its own row, without padding; a
        word without one has any, and what is said of it means nothing.
        """
        self._captured = None
        logits = self.network(**{n: batch[n] for n in self.inputs if n in batch}).logits
        places = first_tokens(batch["starts"], batch["attention_mask"])
        outputs = {"logits": at(logits if self.order is None else logits[..., self.order], places)}
        if self._captured is not None:
            outputs["features"] = at(self._captured, places)
            self._captured = None
        return outputs

    def block_names(self) -> list[str]:
        """Names of the trainable parameters from the last transformer block on; none where all of these are frozen."""
        return names_from_last_block(self, self.network)

    @property
    def num_blocks(self) -> int:
        """Transformer blocks."""
        return len(find_blocks(self.network)[1])


def first_tokens(starts: Tensor, mask: Tensor) -> Tensor:
    """The places ``(B, W)`` of words' first tokens in a padded batch with this mask ``(B, T)``."""
    padding = mask.argmax(1, keepdim=True)  # on the left, where a kind of model takes it there
    return (starts + padding).clamp_max(mask.shape[1] - 1)


def at(states: Tensor, places: Tensor) -> Tensor:
    """The states ``(B, T, H)`` at places ``(B, W)``: ``(B, W, H)``."""
    return states.gather(1, places[..., None].expand(-1, -1, states.shape[-1]))


class FirstWord(nn.Module):
    """A tagger as a classifier of texts by their second token, for checks that are made of classifiers."""

    def __init__(self, tagger: Tagger) -> None:
        super().__init__()
        self.tagger, self.network = tagger, tagger.network

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``logits`` ``(B, C)`` and ``features`` ``(B, H)``."""
        starts = torch.ones_like(batch["attention_mask"][:, :1])
        return {name: values[:, 0] for name, values in self.tagger({**batch, "starts": starts}).items()}
