"""The reference: differentiate through the student's step (double backward)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from rwkd_lightning.bilevel.engine import Engine, Problem, leaves
from rwkd_lightning.utils.distributed import world_size
from rwkd_lightning.utils.errors import UserError


class Unrolled(Engine):
    """Double backward through θ̂(w), as published meta-reweighting does; keeps the graph of the graph.

    Without a lookahead the reference is the double backward through θ − ∇_θ mean_i Σ_k (w_ik −
    stop_gradient(w_ik))·l_ik, whose value is θ and whose derivative is that of an SGD step of length 1. Fused attention
    has no double backward, so the training pass runs under the math kernel.
    """

    math_attention = True
    double_backward = True

    def influence(self, problem: Problem) -> Tensor:
        if world_size() > 1:
            raise UserError(
                "`engine=Unrolled()` differentiates through the student's step, which several processes take "
                "together; use `engine=Jvp()` or `engine=FiniteDifference()`"
            )
        theta = leaves(problem.parameters)
        weights = problem.weights.detach().requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):
            losses = problem.terms(problem.outputs(theta))
            used = weights if problem.lookahead is not None else weights - weights.detach()
            objective = (used * losses).sum(1).mean()
            gradients = torch.autograd.grad(objective, list(theta.values()), create_graph=True, allow_unused=True)
        step = 1.0 if problem.lookahead is None else problem.lookahead
        moved = {n: p - step * g if g is not None else p for (n, p), g in zip(theta.items(), gradients, strict=True)}
        (by_weight,) = torch.autograd.grad(problem.meta_loss(moved), weights)
        return (-len(weights) / step * by_weight).detach()

    def __repr__(self) -> str:
        return "unrolled"
