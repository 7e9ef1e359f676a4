"""A meta step before training, whose result is thrown away: it refuses by name a student that an engine cannot take.

Gradient checkpointing, kernels without a forward mode, layers that change their buffers: all of them would otherwise
show in the first meta step, a fifth of the training later, or never.
"""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from rwkd_lightning.bilevel import Jvp, RandomState
from rwkd_lightning.bilevel.engine import Outputs
from rwkd_lightning.meta.restriction import Batch, to_device, without_statistics
from rwkd_lightning.meta.step import MetaStep
from rwkd_lightning.utils.errors import UserError

APART = 1e-2
"""Relative distance of two passes that should be the same; rounding stays below, another dropout mask goes above."""
HEAD_ONLY = "use `theta=HeadWithBank()` or `theta=Head()`"


def rehearse(meta: MetaStep, student: nn.Module, device: torch.device, shared: bool) -> None:
    """Take a meta step on held-out rows and undo it; nothing is done where the engine does not run the student.

    Args:
        shared: whether the lookahead's gradient is that of the student's step (``combinations.shares_gradient``).

    Raises:
        UserError: if the engine cannot go through the student, or would give a wrong influence.
    """
    if not meta.theta.needs_pass:
        return
    if isinstance(meta.engine, Jvp) and compiled(student):  # whether it can be traced there is chance
        raise UserError(
            f"`engine={meta.engine!r}` cannot go through a compiled student; use "
            "`engine=FiniteDifference()`, or leave out torch.compile"
        )
    batch = to_device(meta.stream[0], device)
    loss, state = meta.held_out_loss, RandomState.capture(device)
    with state.replay(), without_statistics(student):
        refuse_moving_buffers(student, batch)
        refuse_unlike_passes(meta, student, batch, state)
        refuse_reentrant(meta, student, batch, shared)
        gradient = (
            {n: torch.zeros_like(p) for n, p in student.named_parameters() if p.requires_grad} if shared else None
        )
        state.restore()
        try:
            weights = torch.ones(len(batch["index"]), 1, device=device)
            meta.engine.influence(meta.problem(student, batch, lambda: student(batch), size, weights, state, gradient))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            instead = "use `engine=FiniteDifference()`" if meta.engine.math_attention else HEAD_ONLY
            if checkpointed(student):
                reason, instead = (
                    "it has gradient checkpointing",
                    f"turn that off (gradient_checkpointing_disable), or {instead}",
                )
            raise UserError(f"`engine={meta.engine!r}` cannot go through this student ({reason}); {instead}") from error
        finally:
            meta.held_out_loss = loss


def compiled(student: nn.Module) -> bool:
    """Whether the student or a part of it is compiled."""
    return any(
        getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod")
        for module in student.modules()
    )


def size(outputs: Outputs) -> Tensor:
    """Mean square ``(B, 1)`` of the outputs that the engine differentiates: a loss that needs no teacher."""
    rows = [o.flatten(1).float().square().mean(1) for o in outputs.values() if o.is_floating_point() and o.ndim > 1]
    return torch.stack(rows, 1).sum(1, keepdim=True)


@torch.no_grad()
def refuse_moving_buffers(student: nn.Module, batch: Batch) -> None:
    """Refuse a student whose training passes change what the next one starts from, as spectral normalisation does."""
    before = {n: b.clone() for n, b in student.named_buffers()}
    student(batch)
    moved = [n for n, b in student.named_buffers() if b.is_floating_point() and not torch.equal(b, before[n])]
    for name, buffer in student.named_buffers():
        buffer.copy_(before[name])
    if moved:
        raise UserError(
            f"the student's buffer {moved[0]} changes with every pass in training, so the meta step's passes are not "
            f"those of the training pass; {HEAD_ONLY}"
        )


def refuse_unlike_passes(meta: MetaStep, student: nn.Module, batch: Batch, state: RandomState) -> None:
    """Refuse a student that draws other random numbers from the same generator state: u would be their noise."""
    math = sdpa_kernel(SDPBackend.MATH) if meta.engine.math_attention else contextlib.nullcontext()
    with torch.autocast(batch["index"].device.type, enabled=False):
        state.restore()
        training = {n: o.detach() for n, o in student(batch).items()}
        state.restore()
        with torch.no_grad(), math:
            again = student(batch)
    for name, one in training.items():
        apart = torch.linalg.vector_norm(one - again[name]) / torch.linalg.vector_norm(one).clamp_min(1e-12)
        if one.is_floating_point() and apart > APART:
            raise UserError(
                f"the student's {name} differ by {float(apart):.0%} between two passes from the same state of the "
                f"generator, with a graph and without one, so `engine={meta.engine!r}` would measure that noise; "
                f"draw from torch's own generator, or {HEAD_ONLY}"
            )


def refuse_reentrant(meta: MetaStep, student: nn.Module, batch: Batch, shared: bool) -> None:
    """Refuse reentrant checkpoints where a gradient is taken by name: they give none, or silently lose a part."""
    by_name = meta.engine.double_backward or (meta.lookahead_lr is not None and not shared)
    if not by_name:
        return
    nodes, seen = [o.grad_fn for o in student(batch).values()], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == "CheckpointFunctionBackward":
            engine, lookahead = meta.engine.double_backward, meta.lookahead_lr is not None
            which = f"`engine={meta.engine!r}`" if engine else f"`lookahead_lr={meta.lookahead_lr}`"
            instead = " ".join(["`engine=FiniteDifference()`"] * engine + ["`lookahead_lr=None`"] * lookahead)
            raise UserError(
                f"the student's gradient checkpointing is reentrant, and {which} needs gradients that it does not "
                f"give; turn it on with use_reentrant=False, or use {instead}"
            )
        nodes.extend(following for following, _ in node.next_functions)


def checkpointed(student: nn.Module) -> bool:
    """Whether a module of transformers checkpoints its activations."""
    return any(getattr(module, "gradient_checkpointing", False) for module in student.modules())
