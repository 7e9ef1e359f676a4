"""Finite differences of the outputs: no graph, one or two plain forward passes, fused attention stays on."""

from __future__ import annotations

import torch
from torch import Tensor

from rwkd_lightning.bilevel.engine import DirectionalEngine, Outputs, Parameters, Problem
from rwkd_lightning.errors import UserError


class FiniteDifference(DirectionalEngine):
    """ṡ ≈ (s(θ + εv) − s(θ))/ε, or centrally (s(θ + εv) − s(θ − εv))/2ε, with ε = radius/‖v‖.

    The perturbed parameters are copies: the student's own are not touched, so a kept forward graph stays valid. Only the
    outputs are differenced; the terms are differentiated exactly. One-sided in float32 the relative error is smallest
    near a radius of 1e-4 (ten times larger at 1e-3); the arithmetic of bf16 is too coarse, so the passes leave autocast.

    Args:
        radius: length of the displacement of θ, > 0.
        central: two passes and a second-order error in place of one pass and a first-order one.

    Raises:
        UserError: if the radius is not positive.
    """

    def __init__(self, radius: float = 1e-4, central: bool = False) -> None:
        if not radius > 0:
            raise UserError(f"meta.engine.radius is {radius}; a finite difference needs a radius above 0 (1e-4 is good)")
        self.radius = radius
        self.central = central

    @torch.no_grad()
    def push_forward(self, problem: Problem, direction: Parameters) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(v) for v in direction.values()]))
        device = norm.device.type
        autocast = torch.is_autocast_enabled(device)
        known = None if autocast or problem.outputs_at is None else detached(problem.outputs_at)
        with torch.autocast(device, enabled=False):
            here = detached(problem.outputs(problem.parameters)) if known is None else known
            if norm == 0:  # a stationary point of the meta loss: no direction, no influence
                return here, {n: torch.zeros_like(o) for n, o in here.items()}
            epsilon = self.radius / norm
            ahead = problem.outputs(moved(problem.parameters, direction, epsilon))
            if self.central:
                behind = problem.outputs(moved(problem.parameters, direction, -epsilon))
                return here, {n: (ahead[n] - behind[n]) / (2 * epsilon) for n in here}
            return here, {n: (ahead[n] - here[n]) / epsilon for n in here}

    def __repr__(self) -> str:
        return f"finite_difference(radius={self.radius:g}, {'central' if self.central else 'one-sided'})"


def moved(parameters: Parameters, direction: Parameters, step: Tensor) -> dict[str, Tensor]:
    """θ + step·direction."""
    return {n: torch.addcmul(p.detach(), direction[n], step.to(p.dtype)) for n, p in parameters.items()}


def detached(outputs: Outputs) -> dict[str, Tensor]:
    """The same tensors without their graph."""
    return {n: o.detach() for n, o in outputs.items()}
