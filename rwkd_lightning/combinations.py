"""Which weighting methods, loss terms, meta steps and settings of the loop go together."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from rwkd_lightning.errors import UserError
from rwkd_lightning.meta import MetaStep, Restriction
from rwkd_lightning.terms import Term
from rwkd_lightning.weighting import Weighting


def check_reach(terms: Sequence[Term], weighting: Weighting, theta: Restriction | None, student: nn.Module) -> None:
    """Refuse terms whose gradient the weighting method cannot see, so that it would weigh them by nothing.

    Raises:
        UserError: for a term of which no part depends on θ, or on the head for a method that reads gradients there.
    """
    for term in terms:
        if weighting.needs_influence and theta is not None and not any(theta.reaches(student, n) for n in term.reads):
            raise UserError(f"the term {term.name!r} reads the student's {' and '.join(term.reads)}, which do not depend on the "
                            f"part of it that the meta step differentiates by (meta={theta!r}), so {weighting!r} cannot weigh "
                            "it; use meta=all")
        if weighting.needs_head and "logits" not in term.reads:
            raise UserError(f"the term {term.name!r} does not depend on the student's last layer, where {weighting!r} balances "
                            "gradients; use weighting=dwa or weighting=uncertainty")
    if weighting.needs_head and not isinstance(getattr(student, "head", None), nn.Module):
        raise UserError(f"{weighting!r} balances gradients on the student's last linear layer, and this student has none; use "
                        "weighting=dwa or weighting=uncertainty")


def check_loop(weighting: Weighting, meta: MetaStep | None, updated_weights: str, clip: float | None, accumulate: int) -> None:
    """Refuse combinations that mean nothing."""
    if weighting.needs_influence and meta is None:
        raise UserError(f"weighting={weighting!r} learns from held-out samples: it needs a meta step (and a meta split)")
    if meta is not None and meta.every > 1 and not weighting.has_memory:
        raise UserError(f"meta.every={meta.every} with weighting={weighting!r}: it keeps nothing between steps, so it needs "
                        "a meta step every step (meta.every=1)")
    if meta is not None and meta.lookahead_lr is not None and not weighting.has_memory:
        raise UserError(f"meta.lookahead_lr={meta.lookahead_lr} with weighting={weighting!r}: its perturbation stands at 0, so "
                        "there is nothing to look ahead to; use meta.lookahead_lr=null")
    if updated_weights not in ("new", "current"):
        raise UserError(f"meta.weights={updated_weights!r}; known are 'new' and 'current'")
    if accumulate < 1:
        raise UserError(f"trainer.accumulate={accumulate}; it counts batches per student step and must be at least 1")
    if accumulate > 1 and updated_weights == "new" and any(p.requires_grad for p in weighting.parameters()):
        raise UserError(f"trainer.accumulate={accumulate} with meta.weights=new: the weights of the new φ are known only "
                        "after the last of the accumulated batches; use meta.weights=current")
    if clip is not None and not clip > 0:
        raise UserError(f"trainer.clip={clip}; it must be above 0, or null for no clipping")
