"""Finite differences of the outputs: no graph, one or two plain forward passes, fused attention stays on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rwkd_lightning.bilevel.engine import DirectionalEngine, Outputs, Parameters, Problem
from rwkd_lightning.utils.errors import UserError


class FiniteDifference(DirectionalEngine):
    """ṡ ≈ (s(θ + εv) − s(θ))/ε, or centrally (s(θ + εv) − s(θ − εv))/2ε, with ε = radius/‖v‖.

    The perturbed parameters are copies: the student's own are not touched, so a kept forward graph stays valid. Only
    the outputs are differenced; the terms are differentiated exactly. One-sided in float32 the relative error is
    smallest near a radius of 1e-4 (ten times larger at 1e-3); the arithmetic of bf16 is too coarse, so the passes leave
    autocast.

    Args:
        radius: length of the displacement of θ, > 0.
        central: two passes and a second-order error in place of one pass and a first-order one.

    Raises:
        UserError: if the radius is not positive.
    """

    def __init__(self, radius: float = 1e-4, central: bool = False) -> None:
        if not radius > 0:
            raise UserError(f"`radius` is {radius}; a finite difference needs a radius above 0 (1e-4 is good)")
        self.radius = radius
        self.central = central

    def push_forward(
        self, problem: Problem, direction: dict[str, Tensor]
    ) -> tuple[Callable[[], Outputs], dict[str, Tensor]]:
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(v) for v in direction.values()]))
        device = norm.device.type
        autocast = torch.is_autocast_enabled(device)
        # at a stationary point of the meta loss v is 0 and nothing is displaced: no direction, no influence
        size = self.radius / norm.clamp_min(1e-30)
        steps = [size, -size] if self.central else [size]
        with torch.no_grad(), torch.autocast(device, enabled=False):
            there = [
                problem.outputs(moved(problem.parameters, direction, step, last=step is steps[-1])) for step in steps
            ]
        # only now, so that the graph of a training pass that is taken here does not lie beside the displaced parameters
        known = None if autocast else problem.known()
        with torch.no_grad(), torch.autocast(device, enabled=False):
            here = detached(problem.outputs(problem.parameters) if known is None else known)
            base, length = (there[1], 2 * steps[0]) if self.central else (here, steps[0])
            return lambda: here, {n: (there[0][n] - base[n]) / length for n in here}

    def __repr__(self) -> str:
        return f"finite_difference(radius={self.radius:g}, {'central' if self.central else 'one-sided'})"


def moved(parameters: Parameters, direction: dict[str, Tensor], step: Tensor, last: bool) -> dict[str, Tensor]:
    """θ + step·direction; the last call takes ``direction`` apart, so that only one copy of θ is there."""
    take = direction.pop if last else direction.__getitem__
    return {n: torch.addcmul(p.detach(), take(n), step.to(p.dtype)) for n, p in parameters.items()}


def detached(outputs: Outputs) -> dict[str, Tensor]:
    """The same tensors without their graph."""
    return {n: o.detach() for n, o in outputs.items()}
