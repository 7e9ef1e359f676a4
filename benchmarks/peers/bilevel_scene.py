"""What every library is given: one student, one training batch, one held-out batch, the same weights, the same dropout
mask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from timing import rows, student
from torch import Tensor, nn
from torch.func import functional_call

from rwkd_lightning.meta.restriction import without_dropout
from rwkd_lightning.terms import CrossEntropy, DistillationKL, stack


class Scene:
    """Two loss terms, CE and KD, each sample with its own weights.

    Args:
        layers: transformer blocks of the student.
        size: B, rows of the training batch and of the held-out batch.
        length: tokens of a row.
    """

    def __init__(self, layers: int, size: int, length: int) -> None:
        torch.manual_seed(0)
        self.student: nn.Module = student(layers).train()
        self.parameters = list(self.student.parameters())
        self.theta = [p.detach().clone() for p in self.parameters]
        self.batch, self.held_out = rows(size, length, 0), rows(size, length, 1)
        self.weights = torch.randn(size, 2).softmax(1)

    def begin(self) -> None:
        """θ and the random numbers as at every other cycle's begin."""
        with torch.no_grad():
            for p, start in zip(self.parameters, self.theta, strict=True):
                p.copy_(start)
        torch.manual_seed(1)

    def losses(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """``(B, 2)``: cross-entropy and distillation of each row of the training batch."""
        return stack([CrossEntropy(), DistillationKL(2.0)], outputs, self.batch)

    def held_out_loss(self, network: nn.Module, parameters: dict[str, Tensor] | None = None) -> Tensor:
        """Mean cross-entropy on the held-out batch, without dropout, where attention may be fused."""
        with without_dropout(network):
            outputs = (
                network(self.held_out) if parameters is None else functional_call(network, parameters, (self.held_out,))
            )
        return stack([CrossEntropy()], outputs, self.held_out).sum(1).mean()

    def gradient(self, losses: Tensor) -> Sequence[Tensor]:
        """The gradient of the student's real step."""
        return torch.autograd.grad(weighted(self.weights, losses), self.parameters)


Cycle = Callable[[], tuple[Tensor, Sequence[Tensor]]]
"""One forward pass, the hypergradient as the influence u ``(B, 2)``, and the gradient of the student's real step."""


def weighted(weights: Tensor, losses: Tensor) -> Tensor:
    """mean_i Σ_k w_ik·l_ik."""
    return (weights * losses).sum(1).mean()
