"""A new head for several labels begins at how often each of them occurs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn


@torch.no_grad()
def begin_at(head: nn.Module | None, shares: Sequence[float]) -> None:
    """Set a linear head's bias ``(C,)`` to the log-odds of the labels' shares; one without a bias stays as it is.

    A head at zero says each label with probability 1/2. Where most labels are rare, a short training does little more
    than unlearn that (Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, section 3.3).

    Args:
        shares: of the training rows, in (0, 1), one for each output.
    """
    bias = getattr(head, "bias", None)
    if isinstance(bias, torch.Tensor):
        bias.copy_(torch.tensor([math.log(share / (1 - share)) for share in shares]))
