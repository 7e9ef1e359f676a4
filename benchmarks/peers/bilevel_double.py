"""The hypergradient by double backward, in the libraries made for it: higher and TorchOpt.

Each gets what is best for it: the graph of the one training pass serves the lookahead and the student's real step, only
that pass runs under the math kernel (fused attention has no double backward), and the held-out batch is run without
dropout. Without a lookahead the weights of the inner step are ε = 0 (Ren et al. 2018), so that it stays at θ. Where the
real step takes the lookahead's weights it takes its gradient: higher hands it to a ``grad_callback``; TorchOpt's
``MetaSGD`` keeps it to itself, so there its functional optimizer is used, for which one takes the gradient oneself.
"""

from __future__ import annotations

import higher
import torch
import torchopt
from bilevel_scene import Cycle, Scene, weighted
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

STEP = 0.01
"""a of the inner step; without a lookahead it only scales the hypergradient."""


def inner_weights(scene: Scene, lookahead: bool) -> Tensor:
    """What the meta loss is differentiated by."""
    return (scene.weights.clone() if lookahead else torch.zeros_like(scene.weights)).requires_grad_()


def influence(by_weight: Tensor) -> Tensor:
    """u of ∂L_meta/∂w = −(a/n)·u."""
    return -len(by_weight) / STEP * by_weight


def with_higher(scene: Scene, lookahead: bool, current: bool) -> Cycle:
    """``innerloop_ctx`` on the student's own parameters, one step of its SGD; with the current weights that is the real
    one.
    """
    optimizer = torch.optim.SGD(scene.parameters, lr=STEP)

    def cycle() -> tuple[Tensor, tuple[Tensor, ...]]:
        weights = inner_weights(scene, lookahead)
        with higher.innerloop_ctx(scene.student, optimizer, copy_initial_weights=False) as (network, inner):
            with sdpa_kernel(SDPBackend.MATH):
                losses = scene.losses(network(scene.batch))
            gradient: list[Tensor] = []
            inner.step(weighted(weights, losses), grad_callback=lambda given: gradient.extend(given) or given)
            if not current:
                gradient.clear()
            (by_weight,) = torch.autograd.grad(scene.held_out_loss(network), weights)
            return influence(by_weight), [g.detach() for g in gradient] if current else scene.gradient(losses)

    return cycle


def with_torchopt(scene: Scene, lookahead: bool) -> Cycle:
    """``MetaSGD`` on the student itself, whose parameters are put back afterwards."""

    def cycle() -> tuple[Tensor, tuple[Tensor, ...]]:
        weights = inner_weights(scene, lookahead)
        theta = torchopt.extract_state_dict(scene.student, by="reference")
        inner = torchopt.MetaSGD(scene.student, lr=STEP)
        with sdpa_kernel(SDPBackend.MATH):
            losses = scene.losses(scene.student(scene.batch))
        inner.step(weighted(weights, losses))
        (by_weight,) = torch.autograd.grad(scene.held_out_loss(scene.student), weights)
        torchopt.recover_state_dict(scene.student, theta)
        return influence(by_weight), scene.gradient(losses)

    return cycle


def with_torchopt_by_hand(scene: Scene, lookahead: bool) -> Cycle:
    """``torchopt.sgd`` along a gradient taken with its graph, which is the real step's as well."""
    assert lookahead
    names = [name for name, _ in scene.student.named_parameters()]
    optimizer = torchopt.sgd(lr=STEP)

    def cycle() -> tuple[Tensor, list[Tensor]]:
        weights, theta = inner_weights(scene, lookahead), tuple(scene.parameters)
        with sdpa_kernel(SDPBackend.MATH):
            losses = scene.losses(scene.student(scene.batch))
        gradient = torch.autograd.grad(weighted(weights, losses), theta, create_graph=True)
        updates, _ = optimizer.update(gradient, optimizer.init(theta), params=theta, inplace=False)
        ahead = torchopt.apply_updates(theta, updates, inplace=False)
        (by_weight,) = torch.autograd.grad(
            scene.held_out_loss(scene.student, dict(zip(names, ahead, strict=True))), weights
        )
        return influence(by_weight), [g.detach() for g in gradient]

    return cycle
