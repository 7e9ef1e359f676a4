"""Several features side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting.base import Step
from rwkd_lightning.weighting.features.checked import read, width_of


class Together(nn.Module):
    """The columns of all parts, in their order: ``(B, sum of their widths)``.

    Args:
        parts: modules with ``width`` and ``forward(step) -> (B, width)``.

    Raises:
        UserError: if there is no part, or a part without a width; by ``forward``, for a part that gives something else.
    """

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        if not parts:
            raise UserError("`parts` is empty; the meta-network has to read something")
        self.width = sum(width_of(part) for part in parts)
        self.parts = nn.ModuleList(parts)

    def forward(self, step: Step) -> Tensor:
        return torch.cat([read(part, step) for part in self.parts], 1)
