"""A Hugging Face encoder-decoder as the rest of the package sees it: documents and targets in, logits of tokens out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

INPUTS = ("input_ids", "attention_mask", "decoder_input_ids")


class Summariser(nn.Module):
    """Wraps a sequence-to-sequence model, teacher-forced on the target's prefix.

    Args:
        network: any ``AutoModelForSeq2SeqLM`` with V outputs.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self._captured: Tensor | None = None
        if (head := self.head) is not None:
            head.register_forward_pre_hook(self._capture)

    @property
    def head(self) -> nn.Linear | None:
        """The linear layer that gives the logits, its weight often the word table's too; None if it is not linear."""
        module = self.network.get_output_embeddings()
        return module if isinstance(module, nn.Linear) else None

    @property
    def has_offset(self) -> bool:
        """Whether the logits are the head's plus a constant (``final_logits_bias`` of BART's kind)."""
        offset = getattr(self.network, "final_logits_bias", None)
        return isinstance(offset, Tensor) and bool((offset != 0).any())

    def _capture(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        self._captured = args[0]

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``logits`` ``(B, T, V)`` of the tokens after ``decoder_input_ids`` ``(B, T)`` and, where their layer is
        linear, its inputs as ``features`` ``(B, T, H)``.
        """
        self._captured = None
        outputs = {"logits": self.network(**{name: batch[name] for name in INPUTS}, use_cache=False).logits}
        if self._captured is not None:
            outputs["features"] = self._captured
            self._captured = None
        return outputs

    def block_names(self) -> list[str]:
        """Names of the trainable parameters from the decoder's last block on, without a head that is the word table."""
        blocks = stack_of(self.network, "decoder")
        tables = {id(p) for p in self.network.get_input_embeddings().parameters()}
        last = {id(p) for p in blocks[-1].parameters()}
        decoder = self.network.get_decoder()
        for name, module in decoder.named_children():  # the norm after the blocks, and not that of the embeddings
            if module is not blocks and name in ("layer_norm", "final_layer_norm", "norm"):
                last |= {id(p) for p in module.parameters()}
        if self.head is not None:
            last |= {id(p) for p in self.head.parameters()}
        return [n for n, p in self.named_parameters() if id(p) in last - tables and p.requires_grad]

    @property
    def num_blocks(self) -> int:
        """Blocks of the decoder."""
        return len(stack_of(self.network, "decoder"))


def stack_of(network: Any, part: str) -> nn.ModuleList:
    """The blocks of the ``encoder`` or ``decoder``.

    Raises:
        ValueError: if they are no list of modules.
    """
    stack = getattr(network, f"get_{part}")()
    for name in ("layers", "block", "layer"):
        blocks = getattr(stack, name, None)
        if isinstance(blocks, nn.ModuleList):
            return blocks
    raise ValueError(f"the {part} of a {type(network).__name__} has no list of blocks")


def shifted(labels: Tensor, start: int, pad: int) -> Tensor:
    """The decoder's inputs ``(B, T)`` for labels ``(B, T)`` with −1 where there is no token."""
    ids = torch.where(labels < 0, pad, labels)
    return torch.cat([ids.new_full((len(ids), 1), start), ids[:, :-1]], 1)
