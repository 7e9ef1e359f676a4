"""Summaries written by a model: greedy search or beams, by ``generate`` of transformers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from rwkd_lightning.meta.restriction import to_device
from rwkd_lightning.systems.summaries.loading import start_of
from rwkd_lightning.systems.summaries.summariser import Summariser
from rwkd_lightning.utils import bars

SETTINGS = ("beams", "length_penalty", "no_repeat_ngram")


def generation_config(summariser: Summariser, tokenizer: Any, decoding: Mapping[str, Any], length: int) -> Any:
    """How a summary is searched for; no setting of the model's own files but its tokens.

    Args:
        decoding: ``beams`` (1: greedy), ``length_penalty`` (of beams; 0: none) and ``no_repeat_ngram`` (0: any).
        length: tokens of a summary at most.
    """
    from transformers import GenerationConfig

    own = summariser.network.generation_config
    more = {"length_penalty": float(decoding["length_penalty"])} if decoding["beams"] > 1 else {}
    return GenerationConfig(
        max_new_tokens=length,
        num_beams=decoding["beams"],
        no_repeat_ngram_size=decoding["no_repeat_ngram"],
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        decoder_start_token_id=start_of(summariser, tokenizer),
        forced_bos_token_id=getattr(own, "forced_bos_token_id", None),
        **more,
    )


@torch.inference_mode()
def written(
    summariser: Summariser,
    tokenizer: Any,
    loader: Iterable[Mapping[str, Tensor]],
    size: int,
    settings: Any,
    device: torch.device,
    description: str,
) -> list[str]:
    """The summaries of a split's N documents, in the split's order; the model is in evaluation mode afterwards."""
    summariser.eval().to(device)
    found = [""] * size
    for batch in bars.over(loader, description):
        asked = to_device({name: batch[name] for name in ("input_ids", "attention_mask")}, device)
        ids = summariser.network.generate(**asked, generation_config=settings)
        for row, text in zip(batch["index"].tolist(), decoded(tokenizer, ids), strict=True):
            found[row] = text
    return found


def decoded(tokenizer: Any, ids: Tensor) -> list[str]:
    """The texts of tokens ``(B, T)``."""
    return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
