"""Forward-mode automatic differentiation: exact, about the price of two forward passes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from rwkd_lightning.bilevel.engine import DirectionalEngine, Outputs, Problem


class Jvp(DirectionalEngine):
    """ṡ by one forward-mode pass; works under bf16. Fused attention has no forward mode, hence the math kernel."""

    math_attention = True

    def push_forward(
        self, problem: Problem, direction: dict[str, Tensor]
    ) -> tuple[Callable[[], Outputs], dict[str, Tensor]]:
        if problem.derivative is not None:
            with torch.no_grad():
                return lambda: problem.outputs(problem.parameters), dict(problem.derivative(direction))
        theta = {n: p.detach() for n, p in problem.parameters.items()}
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            both = torch.func.jvp(lambda p: dict(problem.outputs(p)), (theta,), (direction,))
        return lambda: both[0], both[1]

    def __repr__(self) -> str:
        return "jvp"
