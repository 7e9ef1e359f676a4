"""The hypergradient that every engine computes, and the part that the cheap ones share.

The bi-level step asks how the meta loss after one student step would change with the weight of each loss term of each
sample. For a one-step SGD lookahead θ̂ = θ − a·∇_θ (1/n) Σ_i Σ_k w_ik l_ik(θ) and v = ∇_θ̂ L_meta(θ̂),

    ∂L_meta/∂w_ik = −(a/n)·⟨v, ∇_θ l_ik(θ)⟩                                                        (1)

exactly, because the weights depend on detached values only. An engine returns the *influence* u_ik = ⟨v, ∇_θ l_ik(θ)⟩:
positive where more weight on term k of sample i would lower the meta loss.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rwkd_lightning.utils.constants import constant
from rwkd_lightning.utils.distributed import all_reduce_means

Parameters = Mapping[str, Tensor]
Outputs = Mapping[str, Tensor]


@dataclass
class Problem:
    """One bi-level step, as functions of the restricted student parameters θ; it knows nothing of the model behind.

    Args:
        parameters: θ by name, the point at which everything is evaluated.
        outputs: θ -> what the loss terms read, by name, one row per sample (for a classifier: logits ``(B, C)``). Every
            call must draw the same dropout mask (see ``randomness``).
        terms: outputs -> per-sample loss terms ``(B, K)``.
        meta_loss: θ -> meta loss on held-out samples, a scalar.
        weights: the current weights ``(B, K)``, read by the lookahead only.
        lookahead: SGD step a of the lookahead; None: v is taken at θ itself, which is another estimator.
        outputs_at: the outputs at θ where they are known already, saving a forward pass; or a function that takes this
            pass, as one that keeps its graph is best taken when the engine's own passes are over (see ``known``).
        gradient: ∇_θ mean_i Σ_k w_ik·l_ik(θ) over the samples of all ranks, by name, where it is known already: a
            lookahead along it needs neither a pass nor the graph of one. What is missing in it has none.
        derivative: direction -> ∂outputs/∂θ along it, where the outputs are linear in θ, so that no pass is needed.
        slopes: names of outputs -> ∂l_ik/∂o_i ``(B, K, ...)`` by name, at those that ``outputs_at`` gives, where a
            sample's terms read no other sample's outputs; None, or what gives None: ``terms`` is asked.
    """

    parameters: Parameters
    outputs: Callable[[Parameters], Outputs]
    terms: Callable[[Outputs], Tensor]
    meta_loss: Callable[[Parameters], Tensor]
    weights: Tensor
    lookahead: float | None = None
    outputs_at: Outputs | Callable[[], Outputs] | None = None
    gradient: Parameters | None = None
    derivative: Callable[[Parameters], Outputs] | None = None
    slopes: Callable[[Collection[str]], Outputs | None] | None = None

    def known(self) -> Outputs | None:
        """``outputs_at``; where that is a function it takes a pass, with a graph where the caller's mode allows one."""
        return self.outputs_at() if callable(self.outputs_at) else self.outputs_at


class Engine(ABC):
    """Computes the influence of every loss term of every sample on the meta loss."""

    math_attention: bool = False
    """Whether its training pass leaves fused attention, which has neither a forward mode nor a double backward."""
    double_backward: bool = False
    """Whether it differentiates through a gradient."""

    @abstractmethod
    def influence(self, problem: Problem) -> Tensor:
        """Return u = ⟨v, ∇_θ l_ik⟩, shape ``(B, K)``, detached."""


class DirectionalEngine(Engine):
    """The engines that need no second derivative: v by one backward, all inner products by one directional derivative.

    Everything is read off ṡ = (∂outputs/∂θ)·v, one row per sample, so the cost does not grow with K.
    """

    def influence(self, problem: Problem) -> Tensor:
        outputs, tangents = self.push_forward(problem, meta_gradient(problem))  # nothing else keeps the gradient
        known = along_known(problem, tangents)
        return along(problem.terms, outputs(), tangents) if known is None else known

    @abstractmethod
    def push_forward(
        self, problem: Problem, direction: dict[str, Tensor]
    ) -> tuple[Callable[[], Outputs], dict[str, Tensor]]:
        """Return what gives the outputs at θ, and their derivative along ``direction``, detached; may take what is in
        ``direction``.
        """


def along_known(problem: Problem, tangents: Outputs) -> Tensor | None:
    """As ``along``, by the slopes of the terms that are known; None where they are not."""
    if problem.slopes is None or problem.derivative is None:  # the outputs of another pass may differ in their masks
        return None
    slopes = problem.slopes(tangents)
    if slopes is None or any(slopes[name].dtype != tangent.dtype for name, tangent in tangents.items()):
        return None
    first, *others = [(slopes[name] * tangent[:, None]).flatten(2).sum(2) for name, tangent in tangents.items()]
    return sum(others, first)


@torch.enable_grad()
def along(terms: Callable[[Outputs], Tensor], outputs: Outputs, tangents: Outputs) -> Tensor:
    """The derivative ``(B, K)`` of the terms along the tangents of the outputs.

    With J the terms' Jacobian, Jᵀz is linear in z, and the gradient of ⟨Jᵀz, ȯ⟩ by z is J·ȯ: two passes back, whatever
    K is, and exact also for a term that mixes samples. Forward mode gives the same in five times the time on such small
    tensors.
    """
    given = {n: o.detach().requires_grad_(o.is_floating_point()) for n, o in outputs.items()}
    losses = terms(given)
    reached = [n for n, o in given.items() if o.requires_grad]
    z = torch.zeros_like(losses).requires_grad_()
    back = (
        torch.autograd.grad(
            losses, [given[n] for n in reached], z, create_graph=True, allow_unused=True, materialize_grads=True
        )
        if losses.requires_grad
        else []
    )
    inner = [(g * tangents[n].detach()).sum() for n, g in zip(reached, back, strict=False)]
    (influence,) = torch.autograd.grad(sum(inner, 0 * z.sum()), z)
    return influence.detach()


def leaves(parameters: Parameters) -> dict[str, Tensor]:
    """Copies of the parameters' handles that gradients can be taken for, sharing their memory."""
    return {name: p.detach().requires_grad_() for name, p in parameters.items()}


def lookahead_parameters(problem: Problem) -> dict[str, Tensor]:
    """θ̂ = θ − a·∇_θ mean_i Σ_k w_ik l_ik(θ), the mean over the samples of all ranks; θ itself without a lookahead.

    Leaves that require gradients.
    """
    if problem.lookahead is None:
        return leaves(problem.parameters)
    step = problem.lookahead
    mean = problem.gradient if problem.gradient is not None else training_gradient(problem)
    moved = {
        n: torch.sub(p.detach(), mean[n], alpha=step) if n in mean else p.detach()
        for n, p in problem.parameters.items()
    }
    return {n: p.requires_grad_() for n, p in moved.items()}


def training_gradient(problem: Problem) -> dict[str, Tensor]:
    """∇_θ mean_i Σ_k w_ik l_ik(θ), the mean over the samples of all ranks, by name; without what has none."""
    theta = leaves(problem.parameters)
    known, at = problem.known(), list(problem.parameters.values())
    kept = known is not None and all(p.requires_grad for p in at) and any(o.requires_grad for o in known.values())
    if known is None or not kept:  # else the graph of the training pass serves, and saves a forward pass
        known, at = problem.outputs(theta), list(theta.values())
    objective = (problem.weights.detach() * problem.terms(known)).sum(1).mean()
    gradients = torch.autograd.grad(objective, at, allow_unused=True, retain_graph=kept)
    return all_reduce_means({n: g for n, g in zip(theta, gradients, strict=True) if g is not None})


def meta_gradient(problem: Problem) -> dict[str, Tensor]:
    """v = ∇_θ̂ L_meta(θ̂), by name: the mean over all ranks, each with its share of the held-out samples."""
    theta = lookahead_parameters(problem)
    loss = problem.meta_loss(theta)
    with torch.autocast(loss.device.type, enabled=False):  # a backward inside it is rounded, whatever the forward was
        gradients = torch.autograd.grad(
            loss, list(theta.values()), constant(1.0, loss.dtype, loss.device), allow_unused=True
        )
    direction = {
        n: g if g is not None else torch.zeros_like(p) for (n, p), g in zip(theta.items(), gradients, strict=True)
    }
    return all_reduce_means(direction)
