"""Which weighting methods, loss terms, meta steps and settings of the loop go together."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rwkd_lightning.meta import MetaStep, Restriction
from rwkd_lightning.terms import Term
from rwkd_lightning.utils.distributed import on_any_rank
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.weighting import Weighting
from rwkd_lightning.weighting.columns import Columns, MissingRole

PRECISIONS = ("32-true", "32", "64-true", "64", "bf16-mixed", "bf16")  # the short forms are Lightning's too
IMPLIED = {"classes": "probabilities", "words": "probabilities"}  # who provides these provides probabilities over them
KINDS = {  # in a sentence; others as they are
    "numbers": "a regression",
    "labels": "a multi-label task",
    "probabilities": "classes or words",
}
SPREAD = ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel")


def check_module(
    student: nn.Module,
    terms: Sequence[Term],
    weighting: Weighting,
    meta: MetaStep | None,
    updated_weights: str,
    clip: float | None,
    accumulate: int,
) -> None:
    """Refuse pieces of a `DistillationModule` that do not fit each other, by the checks below and the method's own."""
    check_loop(weighting, meta, updated_weights, clip, accumulate)
    check_parts(student, accumulate)
    check_coupled(terms, accumulate)
    check_reach(terms, weighting, meta.theta if meta is not None else None, student)
    needed = {name for term in terms for name in term.needs}
    for kind in ("numbers", "labels"):
        if kind in needed and (others := weighting.needs - {kind}):
            wanted = " and ".join(KINDS.get(name, name) for name in sorted(others))
            raise UserError(
                f"weighting={weighting!r} is for {wanted}, and this task is {KINDS[kind]}; use {weighting.instead}"
            )
    check_method(weighting, Columns.of(terms), "numbers" in needed)


def check_start(module: lightning.LightningModule) -> None:
    """Refuse a Trainer's precision, or a compiled module, when a training begins."""
    check_precision(str(module.trainer.precision))
    if getattr(module, "_compiler_ctx", None) is not None or module._compiled_call_impl is not None:
        raise UserError(
            "torch.compile was given the DistillationModule, whose training step cannot be compiled; compile the "
            "student alone: DistillationModule(torch.compile(student), ...)"
        )


def check_parts(student: nn.Module, accumulate: int) -> None:
    """Refuse a student that cannot be trained here as it is given, or not in parts of a batch.

    Raises:
        UserError: for wrappers that spread a model over devices, which have their own forward and gradients; for
            tensors made in inference mode; and for a batch cut into parts whose statistics the student reads.
    """
    for name, module in student.named_modules():
        if type(module).__name__ in SPREAD:
            where = f" ({name})" if name else ""
            raise UserError(
                f"the student{where} is wrapped in {type(module).__name__}; give it without, and use "
                "`strategy=ddp` for several devices"
            )
    for name, tensor in [*student.named_parameters(), *student.named_buffers()]:
        if tensor.is_inference():
            raise UserError(
                f"the student's {name} was made under torch.inference_mode, so it cannot be trained; make or load "
                "the student outside of it"
            )
    if accumulate > 1 and any(isinstance(module, _BatchNorm) for module in student.modules()):
        raise UserError(
            f"`accumulate={accumulate}`: the student normalises over the rows of a batch, and a part of it has "
            "other means and variances; use `accumulate=1`"
        )


def check_terms(
    terms: Sequence[Term],
    provides: AbstractSet[str],
    weighting: Weighting,
    *,
    task: str = "this task",
    own: Sequence[str] = (),
    known: Callable[[], Sequence[Term]] = list,
    accumulate: int = 1,
) -> Columns:
    """Refuse terms, or a weighting method, that this task, each other or the loop have no use for.

    Args:
        provides: what the task has: ``classes``, ``numbers``, ``words``, ...; see ``Term.needs``.
        task: its name, for messages.
        own: the names of the task's own terms, for messages.
        known: gives all terms that could be chosen, for messages.
        accumulate: parts of a batch.

    Returns:
        the terms' columns.

    Raises:
        UserError: for two terms of one name; for a term or a method that needs what the task does not provide; for a
            role that the method needs and no term plays; for terms that couple the rows of a batch which is cut.
    """
    columns = Columns.of(terms)
    provided = provides | {IMPLIED[name] for name in provides if name in IMPLIED}
    kind = " and ".join(KINDS.get(name, f"of {name}") for name in sorted(provides))
    if not weighting.needs <= provided:
        wanted = " and ".join(KINDS.get(name, name) for name in sorted(weighting.needs - provided))
        raise UserError(f"weighting={weighting!r} is for {wanted}, and {task} is {kind}; use {weighting.instead}")
    its = f"; its own are terms=[{','.join(own)}]" if own else ""
    for term in terms:
        if not term.needs <= provided:
            wanted = " and ".join(KINDS.get(name, name) for name in sorted(term.needs - provided))
            raise UserError(f"terms={list(columns)}: {term.name!r} is for {wanted}, and {task} is {kind}{its}")
    try:
        check_method(weighting, columns, "numbers" in provides)
    except MissingRole as error:
        fitting = [term.name for term in known() if term.role == error.role and term.needs <= provided]
        order = [*[name for name in own if name in fitting], *fitting]
        if not order:
            raise
        together = [order[0], *columns] if error.role == "label" else [*columns, order[0]]
        raise UserError(f"{error}, as terms=[{','.join(together)}]") from None
    check_coupled(terms, accumulate)
    return columns


def check_method(weighting: Weighting, columns: Columns, is_regression: bool) -> None:
    """Let the method look at the terms' columns; one written for version 0.1 asks for ``regression`` too."""
    if "regression" in inspect.signature(weighting.check).parameters:
        old: Any = weighting.check
        old(columns, is_regression)
    else:
        weighting.check(columns)


def check_outputs(terms: Sequence[Term], gives: Collection[str], taught: Collection[str] | None = None) -> None:
    """Refuse terms that read an output of student or teacher which these do not give, before anything is trained.

    Args:
        gives: the names of all outputs, those that the terms' ``connect`` has asked for among them.
        taught: those of the teacher; None: the same.

    Raises:
        UserError: naming the first.
    """
    for term in terms:
        theirs = [("teacher", term.teacher_output)] if term.teacher_output != term.output else []
        for who, name in [*(("student", name) for name in term.reads), *theirs]:
            there = gives if who == "student" or taught is None else taught
            if name not in there:
                key = "output" if who == "student" else "teacher_output"
                raise UserError(
                    f"the term {term.name!r} reads the {who}'s output {name!r}, and it gives "
                    f"{', '.join(sorted(there))}; set loss_terms.{term.name}.{key} to one of these"
                )


def check_coupled(terms: Sequence[Term], accumulate: int) -> None:
    """Refuse to cut a batch whose rows a term couples: a part of it would have other losses.

    Raises:
        UserError: naming the term.
    """
    for term in terms:
        if term.in_batch and accumulate > 1:
            raise UserError(
                f"`accumulate={accumulate}`: the term {term.name!r} compares the rows of a batch with each "
                "other, and a part of it has fewer; use `accumulate=1`"
            )


def check_reach(
    terms: Sequence[Term],
    weighting: Weighting,
    theta: Restriction | None,
    student: nn.Module,
) -> None:
    """Refuse terms whose gradient the weighting method cannot see, so that it would weigh them by nothing.

    Args:
        student: what its head gives are its ``head_outputs``, or ``logits`` where it does not say.

    Raises:
        UserError: for a term of which no part depends on θ, or on the head for a method that reads gradients there; and
            for a θ that the student does not have.
    """
    if weighting.needs_influence and theta is not None:
        theta.check(student)
    given: Sequence[str] = getattr(student, "head_outputs", ("logits",))
    for term in terms:
        if weighting.needs_influence and theta is not None and not any(theta.reaches(student, n) for n in term.reads):
            raise UserError(
                f"the term {term.name!r} reads the student's {' and '.join(term.reads)}, which do not depend on the "
                f"part of it that the meta step differentiates by (`theta={theta!r}`), so {weighting!r} cannot weigh "
                "it; use `theta=All()`"
            )
        if weighting.needs_head and not any(name in given for name in term.reads):
            raise UserError(
                f"the term {term.name!r} does not depend on the student's last layer, where {weighting!r} balances "
                "gradients; use `DynamicWeightAverage()` or `Uncertainty()`"
            )
    if weighting.needs_head and not isinstance(getattr(student, "head", None), nn.Module):
        raise UserError(
            f"{weighting!r} balances gradients on the student's last linear layer, and this student has none; use "
            "`DynamicWeightAverage()` or `Uncertainty()`"
        )


def check_loop(
    weighting: Weighting, meta: MetaStep | None, updated_weights: str, clip: float | None, accumulate: int
) -> None:
    """Refuse combinations that mean nothing."""
    if weighting.needs_influence and meta is None:
        raise UserError(
            f"weighting={weighting!r} learns from held-out samples: it needs a meta step (and a meta split); "
            "give DistillationModule held-out rows as meta_data=, or a MetaStep as meta="
        )
    if meta is not None and meta.every > 1 and not weighting.has_memory:
        raise UserError(
            f"`every={meta.every}` with weighting={weighting!r}: it keeps nothing between steps, so it needs "
            "a meta step every step (`every=1`)"
        )
    if meta is not None and meta.lookahead_lr is not None and not weighting.has_memory:
        raise UserError(
            f"`lookahead_lr={meta.lookahead_lr}` with weighting={weighting!r}: its perturbation stands at 0, so "
            "there is nothing to look ahead to; use `lookahead_lr=None`"
        )
    if updated_weights not in ("new", "current"):
        raise UserError(f"`updated_weights={updated_weights!r}`; known are 'new' and 'current'")
    check_accumulate(accumulate)
    if accumulate > 1 and meta is not None and meta.theta.needs_pass:
        raise UserError(
            f"`accumulate={accumulate}` with `theta={meta.theta!r}`: its meta step runs the student on all rows "
            "of a step at once, which takes the memory that accumulation is to save; use "
            "`theta=HeadWithBank()` or `theta=Head()`"
        )
    if accumulate > 1 and weighting.needs_head:
        raise UserError(
            f"`accumulate={accumulate}` with weighting={weighting!r}: it reads the gradients of all rows of a "
            "step before the first part's backward; use `DynamicWeightAverage()` or `Uncertainty()`"
        )
    if clip is not None and not clip > 0:
        raise UserError(f"`clip={clip}`; it must be above 0; use `clip=None` for no clipping")


def shares_gradient(weighting: Weighting, meta: MetaStep, updated_weights: str) -> bool:
    """Whether the gradient of the lookahead is that of the student's step, so that one backward serves both."""
    same_weights = updated_weights == "current" and not weighting.reads_influence
    return (
        same_weights and meta.theta.needs_pass and not weighting.needs_head
    )  # else the method wants the graph after it


def check_unmoved(weighting: Weighting, before: Tensor, after: Tensor) -> None:
    """Refuse weights ``(B, K)`` that the meta step has changed where the student's gradient is already taken with them.

    Raises:
        UserError: on all ranks, if they differ on one.
    """
    (moved,) = on_any_rank(not torch.equal(before, after), device=after.device)
    if moved:
        raise UserError(
            f"weighting={weighting!r} has reads_influence=False, but with the influence of the step, or asked again, "
            "it gives other weights; use `updated_weights='new'`"
        )


def check_accumulate(accumulate: int) -> None:
    """Refuse a number of parts below 1."""
    if accumulate < 1:
        raise UserError(f"`accumulate={accumulate}`; it counts the parts of a student step and must be at least 1")


def check_precision(precision: str, setting: str | None = None) -> None:
    """Refuse arithmetic that the loop is not right in.

    Args:
        setting: the key that the user sets, for the message; None: the argument of the Trainer.

    Raises:
        UserError: naming what is.
    """
    if precision in PRECISIONS:
        return
    reason = "is not known here"
    if precision.startswith("16") or "float16" in precision:
        reason = "has gradients scaled for fp16, which would be clipped before they are unscaled"
    elif precision.startswith("bf16-true"):
        reason = (
            "keeps the parameters themselves in bf16, where an update of 1e-4 is mostly rounded away, and with them the"
            " meta-learner and the record of the samples"
        )
    elif precision.startswith("transformer-engine"):
        reason = "replaces the linear layers by fp8 ones, which the meta step was never run with"
    named = f"`precision={precision}`" if setting is None else f"{setting}={precision}"
    raise UserError(f"{named} {reason}; use bf16-mixed or 32-true")
