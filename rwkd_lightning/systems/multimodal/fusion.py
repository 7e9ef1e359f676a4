"""Text and picture in one transformer, in the form of VisualBERT (Li et al. 2019, arXiv 1908.03557)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rwkd_lightning.systems.text.models.classifier import find_blocks, names_from_last_block

BOTH, TEXT, IMAGE = PASSES = ("both", "text", "image")
SUFFIX = {BOTH: "", TEXT: "_text", IMAGE: "_image"}
"""Of the outputs of each pass: ``logits``, ``logits_text``, ``logits_image``."""


class Fusion(nn.Module):
    """Answers to the whole input, to the text alone and to the picture alone, each by a pass of its own.

    A modality that is left out is not there: its tokens are not among those of the pass, and those of a row that lacks
    it, which stand beside those of others, get no attention. [CLS] and [SEP] stay. The picture's tokens have no
    positions, so that nothing of a text's length reaches them.

    Args:
        network: a ``VisualBertForVisualReasoning`` with C outputs.
        separator: the id of [SEP].
        passes: those that ``forward`` makes; the first gives ``logits``.
    """

    def __init__(self, network: Any, separator: int, passes: Sequence[str] = PASSES) -> None:
        super().__init__()
        self.network, self.separator, self.passes = network, separator, tuple(passes)

    @property
    def head(self) -> nn.Linear:
        """The linear layer that gives all logits."""
        head: nn.Linear = self.network.cls
        return head

    @property
    def head_outputs(self) -> list[str]:
        """Names of the head's outputs, one of each pass."""
        return [f"logits{SUFFIX[kind] if place else ''}" for place, kind in enumerate(self.passes)]

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``logits`` ``(B, C)`` and ``features`` ``(B, H)``, what the head reads; of other passes with their suffix.

        Reads ``input_ids`` and ``attention_mask`` ``(B, T)``, ``visual_embeds`` ``(B, P, D)``, ``has_text`` and
        ``has_image`` ``(B,)``.
        """
        outputs: dict[str, Tensor] = {}
        for place, kind in enumerate(self.passes):
            features = self.features(batch, kind)
            suffix = SUFFIX[kind] if place else ""
            outputs |= {f"logits{suffix}": self.head(features), f"features{suffix}": features}
        return outputs

    def features(self, batch: Mapping[str, Tensor], kind: str) -> Tensor:
        """The head's inputs ``(B, H)`` of one pass."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        if kind == IMAGE:
            ids, mask = self.bare(ids[:, :2]), torch.ones_like(mask[:, :2])
        elif kind == BOTH:
            ids, mask = self.without_text(ids, mask, batch["has_text"])
        shown: dict[str, Tensor] = {}
        if kind != TEXT:
            visual = batch["visual_embeds"].to(self.head.weight.dtype)
            there = batch["has_image"][:, None].to(mask.dtype).expand(visual.shape[:2])
            shown = {"visual_embeds": visual, "visual_attention_mask": there}
        pooled = self.network.visual_bert(ids, attention_mask=mask, **shown).pooler_output
        dropped: Tensor = self.network.dropout(pooled)
        return dropped

    def bare(self, ids: Tensor) -> Tensor:
        """[CLS] [SEP] for each of the rows ``(B, 2)``."""
        return torch.cat([ids[:, :1], torch.full_like(ids[:, 1:], self.separator)], 1)

    def without_text(self, ids: Tensor, mask: Tensor, has_text: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and mask ``(B, T)``, of rows without a text those of [CLS] [SEP]."""
        bare = torch.cat([self.bare(ids[:, :2]), ids[:, 2:]], 1)
        first = (torch.arange(ids.shape[1], device=ids.device) < 2).to(mask.dtype).expand_as(mask)
        there = has_text.bool()[:, None]
        return torch.where(there, ids, bare), torch.where(there, mask, first)

    def block_names(self) -> list[str]:
        """Names of the trainable parameters from the last transformer block on."""
        return names_from_last_block(self, self.network)

    @property
    def num_blocks(self) -> int:
        """Transformer blocks."""
        return len(find_blocks(self.network)[1])


class ModalityDropout(Fusion):
    """A teacher in training: of each row the text or the picture is left out, never both, each with probability
    share/2, so that it has seen what it will be asked (Neverova et al., TPAMI 2016, section 4.3, drop whole channels).

    Rows that lack one of them keep the other.

    Args:
        share: in [0, 1).
    """

    def __init__(self, network: Any, separator: int, share: float) -> None:
        super().__init__(network, separator, (BOTH,))
        self.share = share

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.training and self.share:
            has_text, has_image = batch["has_text"].bool(), batch["has_image"].bool()
            drawn = torch.rand(has_text.shape, device=has_text.device)
            whole = has_text & has_image
            batch = {
                **batch,
                "has_text": has_text & ~(whole & (drawn < self.share / 2)),
                "has_image": has_image & ~(whole & (drawn >= self.share / 2) & (drawn < self.share)),
            }
        return super().forward(batch)
