"""The hypergradient in Betty: an ``Engine`` of two ``ImplicitProblem``s, its default method ``darts``, one step
unrolled.

Betty differentiates implicitly: it takes the training step, θ̂ = θ − a·∇, then v at θ̂, and differences the *training
loss* at θ̂ + εv and θ̂ − εv, where the step was taken at θ. The lookahead is thus nearly that of the others, not the
same. Without a lookahead a = 0, and the estimator is the same.

Three things are done for it here, all by its own hooks. The passes replay one dropout mask: with fresh ones u was off
by a third (one block, 8 rows of 24 tokens). Its ``roll_back`` keeps references to θ, not copies, and its ``darts`` does
not move θ̂ − εv back to θ̂: copies are kept in ``cache_states``, and without ``roll_back`` the benchmark puts θ back,
not timed.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from betty.configs import Config, EngineConfig
from betty.engine import Engine
from betty.logging import get_logger
from betty.problems import ImplicitProblem
from bilevel_scene import Cycle, Scene, weighted
from torch import Tensor, nn

from rwkd_lightning.bilevel import RandomState


class Weights(nn.Module):
    """The weights of the scene as parameters."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(weights.clone())


class Inner(ImplicitProblem):
    """The student on the training batch."""

    def __init__(self, scene: Scene, lr: float) -> None:
        super().__init__("inner", Config(), scene.student, torch.optim.SGD(scene.parameters, lr), device="cpu")
        self.scene = scene
        self.mask = RandomState.capture(torch.device("cpu"))
        self.rolled_back = False

    def get_batch(self) -> dict[str, Tensor]:
        return self.scene.batch

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        with self.mask.replay():
            losses = self.scene.losses(self.module(batch))
        return weighted(self.outer.module.values, losses)

    def custom_optimizer_step(self) -> None:
        self.gradient = [p.grad for p in self.scene.parameters]
        if not self.rolled_back:  # else it is the real step, of which the others' gradient alone is timed
            self.optimizer.step()

    def cache_states(self) -> None:
        self.kept, self.rolled_back = [p.detach().clone() for p in self.scene.parameters], False

    @torch.no_grad()
    def recover_states(self) -> None:
        for p, kept in zip(self.scene.parameters, self.kept, strict=True):
            p.copy_(kept)
        self.rolled_back = True


class Outer(ImplicitProblem):
    """The weights on the held-out batch."""

    def __init__(self, scene: Scene) -> None:
        module = Weights(scene.weights)
        super().__init__("outer", Config(), module, torch.optim.SGD(module.parameters(), 0.0), device="cpu")
        self.scene = scene

    def get_batch(self) -> dict[str, Tensor]:
        return self.scene.held_out

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        return self.scene.held_out_loss(self.inner.module)

    def custom_optimizer_step(self) -> None:
        self.by_weight = self.module.values.grad


def with_betty(scene: Scene, lookahead: float | None, roll_back: bool) -> Cycle:
    """Roll back: the real step is taken with the weights that this cycle's hypergradient gives, as by all others here.
    Else the unrolled step is the real one, with the weights of the cycle before, and saves a pass.
    """
    get_logger().setLevel(logging.WARNING)
    inner, outer = Inner(scene, lookahead or 0.0), Outer(scene)
    dependencies: dict[str, Any] = {"u2l": {outer: [inner]}, "l2u": {inner: [outer]}}
    engine = Engine([outer, inner], EngineConfig(roll_back=roll_back), dependencies)

    def cycle() -> tuple[Tensor, list[Tensor]]:
        inner.mask = RandomState.capture(torch.device("cpu"))
        engine.train_step()
        return -len(outer.by_weight) * outer.by_weight, inner.gradient

    return cycle
