"""The head's inputs for the whole meta split, kept and refreshed a few rows per step.

With θ restricted to a linear head, v is an average over *all* held-out samples, and the only cost of a meta step is a
forward pass without gradient over the few rows that are refreshed.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class FeatureBank(nn.Module):
    """Features of M held-out samples, in a checkpoint with the rest, and their targets, which are read again.

    Args:
        size: M.
        width: H, features per sample.
        dtype: of the features; the head's.
    """

    features: Tensor
    seen: Tensor

    def __init__(self, size: int, width: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.register_buffer("features", torch.zeros(size, width, dtype=dtype))
        self.register_buffer("seen", torch.zeros(size, dtype=torch.bool))
        self.targets: dict[str, Tensor] = {}
        self.full = False
        self.register_load_state_dict_post_hook(FeatureBank.forget)  # type: ignore[no-untyped-call]

    def forget(self, *_: object) -> None:
        """Rows were loaded: which, ``seen`` says."""
        self.full = False

    @property
    def filled(self) -> bool:
        """Whether every row was written at least once; once that is so, the device is not asked again."""
        self.full = self.full or bool(self.seen.all())
        return self.full

    def place(self, batch: Mapping[str, Tensor]) -> None:
        """Keep what the meta loss reads of the rows ``batch["index"]``."""
        index = batch["index"]
        for name, value in batch.items():
            if not isinstance(value, Tensor):
                continue
            if value.ndim > 1 and not value.is_floating_point() and name != "labels":
                continue  # ids and masks of the inputs, which no loss reads where the features are kept
            if name not in self.targets:
                self.targets[name] = value.new_zeros((len(self.features), *value.shape[1:]))
            self.targets[name][index] = value

    @torch.no_grad()
    def refresh(self, features: Tensor, batch: Mapping[str, Tensor]) -> None:
        """Write the features ``(m, H)`` of the rows ``batch["index"]``."""
        self.features[batch["index"]] = features.detach().to(self.features.dtype)
        if not self.full:
            self.seen[batch["index"]] = True
