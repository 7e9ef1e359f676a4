"""What the kinds share: words to vectors, blocks that give a state of each token, one vector of a text, its logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class KindConfig(PretrainedConfig):  # type: ignore[misc]
    """Of a network of blocks above a word table.

    Args:
        vocab_size: V, rows of the table.
        embedding_size: D, its columns.
        hidden_size: H of the blocks' states.
        num_hidden_layers: blocks.
        dropout: of the words' vectors, between blocks and before the head.
        type_vocab_size: kinds of segments, of which the second is the second of two texts; 0: they are not read.
    """

    def __init__(
        self,
        vocab_size: int = 30522,
        embedding_size: int = 384,
        hidden_size: int = 256,
        num_hidden_layers: int = 1,
        dropout: float = 0.1,
        type_vocab_size: int = 2,
        pad_token_id: int = 0,
        **others: Any,
    ) -> None:
        self.vocab_size, self.embedding_size, self.hidden_size = vocab_size, embedding_size, hidden_size
        self.num_hidden_layers, self.dropout, self.type_vocab_size = num_hidden_layers, dropout, type_vocab_size
        super().__init__(pad_token_id=pad_token_id, **others)


class Body(nn.Module):
    """Word vectors ``(B, T, D)`` through the blocks, to one vector a text ``(B, H)``.

    A block takes states and the mask ``(B, T, 1)`` and gives states ``(B, T, H)``. Nothing of a padded place reaches
    another one, so a text's vector does not depend on its neighbours in the batch. Padding stands on the right.
    """

    def __init__(self, config: KindConfig, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.words = nn.Embedding(config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id)
        kinds = config.type_vocab_size
        self.segments = nn.Embedding(kinds, config.embedding_size) if kinds else None
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, ids: Tensor, mask: Tensor, segments: Tensor | None) -> Tensor:
        """``(B, H)``."""
        states = self.words(ids)
        if self.segments is not None:  # a tokenizer that gives none has one text
            states = states + self.segments(torch.zeros_like(ids) if segments is None else segments)
        there = mask[..., None].to(states.dtype)
        states = self.dropout(states) * there
        for block in self.blocks:
            states = block(states, there)
        return self.pooled(states, there)

    def pooled(self, states: Tensor, there: Tensor) -> Tensor:
        """The largest of each number over a text's tokens, ``(B, H)``."""
        low = torch.finfo(states.dtype).min
        return states.masked_fill(there == 0, low).amax(1)


class KindModel(PreTrainedModel):  # type: ignore[misc]
    """A sequence classifier of one of the kinds: ``body``, dropout, a linear head."""

    base_model_prefix = "body"
    config: KindConfig

    def __init__(self, config: KindConfig) -> None:
        super().__init__(config)
        self.body = self.made(config)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @staticmethod
    def made(config: Any) -> Body:
        """The body of this kind."""
        raise NotImplementedError

    def _init_weights(self, module: nn.Module) -> None:
        """Each layer begins as torch's own does, but for the tables: N(0, 0.1²), and segments at 0."""
        if isinstance(module, nn.Embedding):
            if module.num_embeddings == self.config.type_vocab_size:
                nn.init.zeros_(module.weight)
            else:
                nn.init.normal_(module.weight, std=0.1)
                with torch.no_grad():
                    module.weight[self.config.pad_token_id].zero_()
        elif isinstance(module, nn.Linear | nn.Conv1d | nn.LSTM | nn.LayerNorm):
            module.reset_parameters()

    def get_input_embeddings(self) -> nn.Module:
        return self.body.words

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.body.words = value

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """``logits`` ``(B, C)`` of ids ``(B, T)``; mask and segments of that shape."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        vectors = self.body(input_ids, mask, token_type_ids)
        return SequenceClassifierOutput(logits=self.head(self.dropout(vectors)))
