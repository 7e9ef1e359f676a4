"""The meta-network of RW-KD, with its backward pass in closed form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class TanhNetwork(nn.Sequential):
    """y = V·tanh(W·x + b) + c of a linear layer, ``nn.Tanh()`` and a linear layer; no gradient reaches x.

    Its gradient comes without the transposes and reshapes that autograd records: on a GPU such a small network costs
    what it takes to launch its operators.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        first, _, last = self
        outputs: Tensor = Perceptron.apply(inputs, first.weight, first.bias, last.weight, last.bias)  # type: ignore[no-untyped-call]
        return outputs


class Perceptron(torch.autograd.Function):
    """With h = tanh(W·x + b) and g the gradient by y: by V gᵀh, by c Σ_i g_i, and, with d = (g·V) ⊙ (1 − h²), by W dᵀx,
    by b Σ_i d_i.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor, v: Tensor, c: Tensor) -> Tensor:
        h = torch.addmm(b, x, w.t()).tanh_()
        ctx.save_for_backward(x, h, v)
        return torch.addmm(c, h, v.t())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,), (x, h, v) = gradients, ctx.saved_tensors
        d = torch.ops.aten.tanh_backward(g @ v, h)
        return None, d.t() @ x, d.sum(0), g.t() @ h, g.sum(0)
