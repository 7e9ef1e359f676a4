"""The teacher beside the loop: asked only for what the batches do not carry."""

from __future__ import annotations

from collections.abc import Set

import torch
from torch import Tensor, nn


class FrozenTeacher:
    """A teacher that is asked for outputs; no module, so that checkpoints, ``train()`` and DDP leave it alone.

    Args:
        network: batch -> outputs by name; None where all that the terms read comes with the batches.
    """

    def __init__(self, network: nn.Module | None) -> None:
        self.network = network

    def freeze(self, device: torch.device) -> None:
        """Put it on the device, in evaluation mode, before training."""
        if self.network is not None:
            self.network.requires_grad_(False).eval().to(device)

    @torch.no_grad()
    def answer(self, batch: dict[str, Tensor], names: Set[str]) -> None:
        """Add those of its outputs to the batch, as ``teacher_<name>``, that are not there already."""
        if self.network is None or all(f"teacher_{name}" in batch for name in names):
            return
        outputs = self.network(batch)
        for name in names & outputs.keys():  # what it does not give the term that reads it will name
            batch.setdefault(
                f"teacher_{name}", outputs[name].clone() if outputs[name].is_inference() else outputs[name]
            )
