"""How a batch goes through the student: at once, or in parts that give what one pass over all of it would give.

All three ways share one interface: ``forward`` gives outputs and losses of all rows, ``descend`` takes the student's
gradient. ``OnePass`` takes its pass when it is first asked for, so that a meta step that does not read it finds its
memory free. ``TwoPasses`` serves weights that depend on the whole batch (a meta step, statistics), which must be known
before the first part's backward: the parts go through without a gradient, then with one, under the dropout masks of the
first time. ``PassByPart`` serves weights that rows know by themselves: one pass per part, with its backward.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from rwkd_lightning.bilevel import RandomState
from rwkd_lightning.utils.errors import UserError

Batch = dict[str, Tensor]
Outputs = dict[str, Tensor]
Run = Callable[[Batch], tuple[Outputs, Tensor]]
"""Rows to the student's outputs and its losses ``(rows, K)``; it may add to the batch what the teacher says of them."""
Backward = Callable[..., None]
"""(loss, last) adds a loss's gradient to the student's; ``last`` marks the last one before the student's step.
``gradient`` is that of the loss by the tensor given in its place.
"""
Weigh = Callable[[Batch, Outputs, Tensor], Tensor]
"""Rows, their outputs and losses to their weights ``(rows, K)``, detached."""


class OnePass:
    """The whole batch at once: the graph of the pass serves the backward.

    Args:
        batch: B rows.
        run: see ``Run``.
        backward: see ``Backward``.
        device: its generator draws the dropout masks.

    Attributes:
        descended: the weights of the student's gradient, once that is taken.
        slopes: ∂l_ik/∂o_i ``(B, K, ...)`` of the one output that the losses read, by its name, where it is known.
    """

    descended: Tensor | None = None
    slopes: tuple[str, Tensor] | None = None

    def __init__(self, batch: Batch, run: Run, backward: Backward, device: torch.device) -> None:
        self.batch, self.run, self.backward = batch, run, backward
        self.randomness = RandomState.capture(device)
        self.passed: tuple[Outputs, Tensor] | None = None

    def forward(self) -> tuple[Outputs, Tensor]:
        """Outputs and losses ``(B, K)``, from the generators' state at the beginning, whatever was drawn since."""
        if self.passed is None:
            self.randomness.restore()
            self.passed = self.run(self.batch)
        return self.passed

    def descend(self, weights: Tensor) -> None:
        """Take the gradient of mean_i Σ_k w_ik·l_ik, for weights ``(B, K)``; its graph is gone afterwards."""
        outputs, losses = self.forward()
        if self.slopes is None:
            self.backward((weights * losses).sum(1).mean(), True)
        else:
            name, slopes = self.slopes
            share = weights.view(*weights.shape, *[1] * (slopes.ndim - 2)) / len(weights)
            self.backward(outputs[name], True, gradient=(share * slopes).sum(1))
            self.slopes = None
        self.passed = {name: output.detach() for name, output in outputs.items()}, losses.detach()
        self.descended = weights


def goes_through(losses: Tensor, output: Tensor) -> bool:
    """Whether the losses depend on leaves of their graph (parameters of student and terms) by this output alone."""
    end, seen, left = (output.grad_fn, output.output_nr), set(), [(losses.grad_fn, losses.output_nr)]
    while left:
        node, place = left.pop()
        if node is None or (node, place) == end or node in seen:
            continue
        if hasattr(node, "variable"):
            return False
        seen.add(node)
        left += node.next_functions
    return True


class TwoPasses:
    """A batch in parts, of which only one at a time has a graph. The generators end where the first pass leaves them.

    Args:
        batch: B rows; gets what ``run`` adds to its parts.
        parts: the same, as ``split`` gives them.
        run, backward, device: as for ``OnePass``.
    """

    descended: Tensor | None = None

    def __init__(
        self, batch: Batch, parts: Sequence[Batch], run: Run, backward: Backward, device: torch.device
    ) -> None:
        self.parts, self.run, self.backward = parts, run, backward
        self.states: list[RandomState] = []
        passed = []
        with torch.no_grad():
            for part in parts:
                self.states.append(RandomState.capture(device))
                passed.append(run(part))
        batch.update(joined(parts, parts))
        self.randomness = self.states[0]
        self.passed = joined([outputs for outputs, _ in passed], parts), torch.cat([losses for _, losses in passed])

    def forward(self) -> tuple[Outputs, Tensor]:
        """As ``OnePass.forward``, without a graph."""
        return self.passed

    def descend(self, weights: Tensor) -> None:
        """As ``OnePass.descend``, part by part."""
        shares = torch.split(weights, [rows(part) for part in self.parts])
        for place, (part, state, share) in enumerate(zip(self.parts, self.states, shares, strict=True)):
            with state.replay():
                _, losses = self.run(part)
            self.backward((share * losses).sum() / len(weights), place == len(self.parts) - 1)
        self.descended = weights


class PassByPart:
    """A batch in parts whose weights are known part by part: one pass each, with its gradient on the way.

    Args:
        batch, parts, run, backward, device: as for ``TwoPasses``.
        weigh: see ``Weigh``.
    """

    def __init__(
        self, batch: Batch, parts: Sequence[Batch], run: Run, backward: Backward, device: torch.device, weigh: Weigh
    ) -> None:
        self.randomness = RandomState.capture(device)
        passed, weights = [], []
        for place, part in enumerate(parts):
            outputs, losses = run(part)
            weights.append(weigh(part, outputs, losses))
            backward((weights[-1] * losses).sum() / rows(batch), place == len(parts) - 1)
            passed.append(({name: output.detach() for name, output in outputs.items()}, losses.detach()))
        batch.update(joined(parts, parts))
        self.passed = joined([outputs for outputs, _ in passed], parts), torch.cat([losses for _, losses in passed])
        self.weights = torch.cat(weights)
        self.descended: Tensor | None = self.weights

    def forward(self) -> tuple[Outputs, Tensor]:
        """As ``OnePass.forward``, without a graph."""
        return self.passed

    def descend(self, weights: Tensor) -> None:
        """The gradient is taken already."""


Passes = OnePass | TwoPasses | PassByPart


def split(batch: Batch, parts: int) -> list[Batch]:
    """The rows in their order, in so many parts whose sizes differ by one at most; fewer where there are fewer rows.

    Raises:
        UserError: for a tensor that has another number of rows than the batch, and so cannot be cut.
    """
    count = rows(batch)
    if parts == 1 or count == 1:
        return [batch]
    sized = {name: value for name, value in batch.items() if isinstance(value, Tensor) and value.ndim}
    for name, value in sized.items():
        if len(value) != count:
            raise UserError(
                f"`accumulate={parts}`: batch[{name!r}] has {len(value)} rows and the batch {count}, so it "
                "cannot be cut; give it one row per sample, or use `accumulate=1`"
            )
    number = min(parts, count)
    sizes = [count // number + (place < count % number) for place in range(number)]
    cut = {name: torch.split(value, sizes) for name, value in sized.items()}
    return [
        {name: cut[name][place] if name in cut else value for name, value in batch.items()} for place in range(number)
    ]


def joined(found: Sequence[Mapping[str, Tensor]], parts: Sequence[Batch]) -> dict[str, Tensor]:
    """Concatenate the tensors of all parts by name; a scalar is taken from the first part.

    Raises:
        UserError: for a tensor that has another number of rows than its part.
    """
    whole: dict[str, Tensor] = {}
    for name, value in found[0].items():
        if not isinstance(value, Tensor) or not value.ndim:
            whole[name] = value
        elif len(value) != rows(parts[0]):
            raise UserError(
                f"`accumulate={len(parts)}`: {name!r} has {len(value)} rows for a part of {rows(parts[0])}, so "
                "it cannot be put together; give it one row per sample, or use `accumulate=1`"
            )
        else:
            whole[name] = torch.cat([one[name] for one in found])
    return whole


def rows(batch: Mapping[str, Tensor]) -> int:
    """B."""
    return len(batch["index"])
