"""The teacher that runs along, its noise drawn anew at every step, as published."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from rwkd_lightning.systems.summaries.summariser import Summariser

STREAM = 65  # of the seeds' streams


class NoisyTeacher(nn.Module):
    """A teacher of one pass with dropout on the documents as they are, ``clean_ids`` and ``clean_mask`` ``(B, S)``.

    What is drawn depends on the seed and the batch's ``visit`` and ``index`` alone, and leaves the other generators as
    they were.

    Args:
        summariser: with the rates of its dropout.
        noisy: False: without dropout.
        seed: of the draws.
    """

    def __init__(self, summariser: Summariser, noisy: bool, seed: int) -> None:
        super().__init__()
        self.summariser, self.noisy, self.seed = summariser, noisy, seed

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``logits`` ``(B, T, V)``."""
        numbers = [*batch["visit"][:1].tolist(), *batch["index"].tolist()]
        asked = {**batch, "input_ids": batch["clean_ids"], "attention_mask": batch["clean_mask"]}
        device = batch["index"].device
        self.summariser.train(self.noisy)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(int(np.random.SeedSequence([self.seed, STREAM, *numbers]).generate_state(1)[0]))
            found = self.summariser(asked)["logits"]
        self.summariser.eval()
        return {"logits": found}
