"""A student without context: the mean of its words' vectors, each with a weight of its own, one layer, a linear head.

The mean of word vectors under a network is that of Iyyer et al. (Deep Unordered Composition, ACL 2015); weights of
words as those of Arora et al. (ICLR 2017), here learned.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rwkd_lightning.systems.text.kinds.network import Body, KindConfig, KindModel


class StaticConfig(KindConfig):
    """One block, of the mean."""

    model_type = "rwkd_static"

    def __init__(self, hidden_size: int = 384, type_vocab_size: int = 0, **others: object) -> None:
        super().__init__(hidden_size=hidden_size, type_vocab_size=type_vocab_size, **others)  # type: ignore[arg-type]


class Static(KindModel):
    """No words' order, no context."""

    config_class = StaticConfig

    @staticmethod
    def made(config: StaticConfig) -> Body:
        return Mean(config)


class Mean(Body):
    """Σ_t softmax(s)_t·E[x_t] over a text's tokens, s a number of each word of the vocabulary, then one layer."""

    def __init__(self, config: StaticConfig) -> None:
        super().__init__(config, [OneLayer(config.embedding_size, config.hidden_size)])
        self.scores = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, ids: Tensor, mask: Tensor, segments: Tensor | None) -> Tensor:
        """``(B, H)``; segments are not read: a mean has no order."""
        there = mask != 0
        scores = self.scores[ids].masked_fill(~there, torch.finfo(self.scores.dtype).min)
        mean = (self.dropout(self.words(ids)) * scores.softmax(1)[..., None]).sum(1, keepdim=True)
        states: Tensor = self.blocks[0](mean)  # as of one token
        return states[:, 0]


class OneLayer(nn.Module):
    """GELU of a linear map."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, hidden)

    def forward(self, states: Tensor) -> Tensor:
        """``(B, 1, H)``."""
        return nn.functional.gelu(self.linear(states))
