"""The base of all weighting methods: a module that gives every loss term of every sample its weight.

One training step asks for, in this order (``module.DistillationModule.training_step``): the influence of each term, if
the method ``needs_influence``; ``own_loss``, whose gradient trains the method's own parameters; the weights, always
used detached; ``observe``. A constant method implements ``forward`` alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rwkd_lightning.terms.base import Term
from rwkd_lightning.utils.constants import constant
from rwkd_lightning.weighting.columns import Columns, columns, has


@dataclass
class History:
    """The traces of earlier visits of the same samples; zeros at the first visit.

    Attributes:
        count: how many visits had a meta step, ``(B, 1)``.
        total: the sum of normalised u over these, ``(B, K)``.
        weights: as last seen, ``(B, K)``.
        rows: all that the ledger has of the samples, which it changes later in the step.
    """

    count: Tensor
    total: Tensor
    weights: Tensor
    rows: Tensor | None = None

    @property
    def visits(self) -> Tensor:
        """``count``, as ``(B,)``."""
        return self.count[:, 0]

    @property
    def influence(self) -> Tensor:
        """The mean of normalised u, ``(B, K)``."""
        return self.total / self.count.clamp_min(1)


@dataclass
class Later:
    """What a step need not wait for: the training loop reads it off the device some steps later.

    Attributes:
        finite: numbers that must be finite, of any shape; where one is not, nothing of the step is kept.
        checks: called without arguments then, in this order; the first whose reason it is raises.
        idle: scalars; where one is true, the method's own parameters stay as they are at this step.
    """

    finite: list[Tensor] = field(default_factory=list)
    checks: list[Callable[[], None]] = field(default_factory=list)
    idle: list[Tensor] = field(default_factory=list)


@dataclass
class Step:
    """Everything a method may read about one training batch of B samples and K loss terms.

    Attributes:
        losses: per-sample terms ``(B, K)``, with the student's graph.
        valid: ``(B, K)``, False where a term has no value for a sample (cross-entropy of a row without a label).
        terms: the K terms, or their names; kept as ``Columns``, names with roles.
        outputs: what the student gave, detached, by name.
        batch: the batch as loaded: ``labels``, ``teacher_<output>``, ``index``, flags of the corruptions; and
            ``progress``, a scalar, for the terms.
        progress: share of the training done, in [0, 1).
        influence: u ``(B, K)`` for methods that need it, on steps that took a meta step; None otherwise.
        history: earlier visits of the same samples.
        half: 0 or 1, the half of the held-out rows that ``influence`` is of, for methods that are ``by_halves``.
        shared_parameters: the student's last layer, for methods that read the gradient of each term.
        later: where checks may wait; None: they are made at once.
        memo: what was computed once for all passes of the step, see ``once``.
    """

    losses: Tensor
    valid: Tensor
    terms: Sequence[str | Term]
    outputs: Mapping[str, Tensor]
    batch: Mapping[str, Tensor]
    progress: float = 0.0
    influence: Tensor | None = None
    history: History | None = None
    shared_parameters: tuple[Tensor, ...] = field(default_factory=tuple)
    later: Later | None = None
    half: int = 0
    memo: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self.terms = Columns.of(self.terms)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        self.__dict__["memo"] = {}  # of another step now

    def once(self, name: str, owner: Any, compute: Callable[[], Any]) -> Any:
        """``compute()`` by the first call for this name and owner, and the same object by all others; for what is
        detached and depends on the step alone.
        """
        key = name, owner
        if key not in self.memo:
            self.memo[key] = compute()
        return self.memo[key]

    @property
    def values(self) -> Tensor:
        """The losses ``(B, K)``, detached."""
        values: Tensor = self.once("values", None, self.losses.detach)
        return values

    def columns(self, role: str) -> list[int]:
        """Columns of the terms that play this role, ``label`` or ``teacher`` say; UserError if there is none."""
        return columns(self.terms, role)

    @torch.no_grad()
    def loss_of(self, term: Term) -> Tensor:
        """The loss ``(B,)`` that a term of these rows is, detached; computed only if it is not in ``losses``."""
        kinds = Columns.of(self.terms).kinds
        if term.kind in kinds:
            return self.values[:, kinds.index(term.kind)]
        loss: Tensor = term(self.outputs, self.batch)
        return loss

    def marked(self, columns: Collection[int]) -> Tensor:
        """``(K,)``, 1 in these columns and 0 elsewhere; not to be written to."""
        return self.vector([float(k in columns) for k in range(len(self.terms))])

    def vector(self, numbers: Sequence[float]) -> Tensor:
        """``(K,)`` of the losses' type, made once for these numbers; not to be written to."""
        return constant(tuple(numbers), self.losses.dtype, self.losses.device)

    def has(self, role: str) -> bool:
        """Whether a term plays this role."""
        return has(self.terms, role)


class Weighting(nn.Module, ABC):
    """Weights for K loss terms of each sample; the student minimises mean_i Σ_k w_ik·l_ik with w detached."""

    needs_influence: bool = False
    """Whether the method takes a meta step."""

    has_memory: bool = True
    """Whether the method can serve steps without a fresh influence (``meta.every > 1``)."""

    needs_head: bool = False
    """Whether the method reads each term's gradient on the student's last layer, so that every term must depend on
    it.
    """

    needs_batch: bool = True
    """Whether a sample's weights depend on the other samples of its batch, or on what is learned from them in the same
    step. Where they do not, a batch in parts (``accumulate``) goes through once and not twice.
    """

    reads_influence: bool = True
    """True if this step's weights depend on this step's influence. If False, the lookahead and the student's step can
    share one backward pass (``updated_weights="current"``), and ``losses`` come without a graph after it.
    """

    by_halves: bool = False
    """Whether meta steps take turns between two halves of the held-out rows, so that one can judge what the other says;
    ``Step.half`` tells which.
    """

    needs: AbstractSet[str] = frozenset()
    """The kinds of samples that a task must provide for the method, see ``Term.needs``."""

    instead: str = "`RWKD()`"
    """The method to use where a task does not provide that."""

    reads_columns: Collection[str] = ()
    """Columns of the training rows, beside those of every run, of which the method needs at least one."""

    collapse_remedy: str | None = None
    """The setting to change if the influence drives all samples to one term; None: the method sets the shares
    itself.
    """

    @abstractmethod
    def forward(self, step: Step) -> Tensor:
        """Weights ``(B, K)``, differentiable by the method's own parameters."""

    def own_loss(self, step: Step) -> Tensor | None:
        """A scalar whose gradient trains the method's own parameters; None: nothing to train at this step."""
        return None

    def own_optimizer(self) -> torch.optim.Optimizer | None:
        """The optimizer of the method's own parameters, with a rate of their own; None: it has none."""
        return None

    def observe(self, step: Step) -> None:
        """Update running statistics after the student's step."""

    def prepare(self, training_set: Mapping[str, Tensor]) -> None:
        """Read the training set's columns once, before the first step: ``labels``, ``teacher_<output>``, flags; N rows
        each.
        """

    def check(self, terms: Columns) -> None:
        """Raise UserError where the method makes no sense for these terms: for a role that none of them plays, say."""


def masked(weights: Tensor, valid: Tensor) -> Tensor:
    """Weights ``(B, K)`` without terms that have no value; the sample's other terms share theirs in proportion.

    A sample whose valid terms all weigh 0 keeps weight 0: plain cross-entropy has no use for a row without a label. A
    method whose weights are no shares of a total (one term's has nothing to do with another's) gives 0 to what is not
    valid itself.
    """
    shares: Tensor = Masked.apply(weights, valid)  # type: ignore[no-untyped-call]
    return shares


class Masked(torch.autograd.Function):
    """``masked``, with its gradient in closed form: half as many operators as it takes to be found.

    With k = valid·w, T = Σ_k k, f = Σ_k w/T, y = k·f and d = Σ_k g·k/T, the gradient g by y is valid·(g − d)·f + d by
    w. Where T is 0 so is k, and both are 0.
    """

    @staticmethod
    def forward(ctx: Any, weights: Tensor, valid: Tensor) -> Tensor:
        kept = weights * valid
        total = kept.sum(1, keepdim=True).clamp_min(1e-30)
        factor = weights.sum(1, keepdim=True) / total
        ctx.save_for_backward(kept, total, factor, valid)
        return kept * factor

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (g,), (kept, total, factor, valid) = gradients, ctx.saved_tensors
        along = (g * kept).sum(1, keepdim=True) / total
        return along.lerp(g, factor * valid), None
