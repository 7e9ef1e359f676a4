"""θ is the linear head: its inputs are known from the training pass, so ṡ needs no second one."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rwkd_lightning.bilevel import FeatureBank, RandomState
from rwkd_lightning.bilevel.engine import Outputs, Parameters
from rwkd_lightning.meta.restriction import Batch, MetaStream, Restriction, View, to_device, without_dropout
from rwkd_lightning.utils.distributed import all_reduce_mean, gather_rows, share
from rwkd_lightning.utils.errors import UserError

TOGETHER = 8
"""Meta steps whose rows of the bank are refreshed in one pass: on a GPU one over 64 rows takes as long as over 8."""


class Head(Restriction):
    """v from the head's gradient on one held-out batch.

    Args:
        centre: write the head as s = W(h − h̄) + c, with h̄ the mean feature of the held-out samples, and take θ = W
            alone. Without it θ is W and the bias, and while features are still nearly the same for all samples u speaks
            of the class prior alone: weights that follow u closely then keep the student at the majority class
            (measured).
        output: the student's output that the head gives.
    """

    needs_pass = False

    def __init__(self, centre: bool = False, output: str = "logits") -> None:
        super().__init__()
        self.centre = centre
        self.output = output

    def check(self, student: nn.Module) -> None:
        linear_head(student)

    def reaches(self, student: nn.Module, output: str) -> bool:
        return output == self.output

    def view(
        self,
        student: nn.Module,
        batch: Batch,
        outputs: Callable[[], Outputs],
        randomness: RandomState,
        stream: MetaStream,
        step: int,
    ) -> View:
        head = linear_head(student)
        meta_features, meta_batch = self.held_out(student, stream, step, head.weight.device)
        features = outputs()[
            "features"
        ].detach()  # after the held-out rows, whose pass then is not beside the training's graph

        weight = head.weight.detach()
        bias = None if head.bias is None else head.bias.detach()
        mean = all_reduce_mean(meta_features.to(weight.dtype).mean(0)) if self.centre else None
        theta = {"weight": weight}
        if mean is not None:
            with torch.autocast(mean.device.type, enabled=False):
                bias = F.linear(mean, weight, bias)
        elif bias is not None:
            theta["bias"] = bias

        def apply(parameters: Parameters, inputs: Tensor) -> Outputs:
            with torch.autocast(inputs.device.type, enabled=False):
                # not through the module: a hook on it would keep tensors of a forward-mode pass that has ended
                inputs = inputs.to(weight.dtype)
                inputs = inputs if mean is None else inputs - mean
                return {self.output: F.linear(inputs, parameters["weight"], parameters.get("bias", bias))}

        def derivative(direction: Parameters) -> Outputs:  # linear in W and b, so that it is their map itself
            with torch.autocast(features.device.type, enabled=False):
                inputs = features.to(weight.dtype)
                inputs = inputs if mean is None else inputs - mean
                return {self.output: F.linear(inputs, direction["weight"], direction.get("bias"))}

        return View(theta, lambda p: apply(p, features), lambda p: (apply(p, meta_features), meta_batch), derivative)

    def held_out(self, student: nn.Module, stream: MetaStream, step: int, device: torch.device) -> tuple[Tensor, Batch]:
        """Features ``(m, H)`` of held-out samples and their targets."""
        return forward_features(student, to_device(share(stream[step]), device))

    def __repr__(self) -> str:
        return "head"


class HeadWithBank(Head):
    """v from the head's gradient on *all* held-out samples, whose features are kept and refreshed, m rows per step.

    The first step fills the bank. The rows of ``TOGETHER`` steps are refreshed at once where the stream can group them
    (and has as many), so stale rows are at most M/m + ``TOGETHER`` meta steps old.
    """

    def __init__(self, centre: bool = False, output: str = "logits") -> None:
        super().__init__(centre, output)
        self.bank: FeatureBank | None = None
        self.every = 1
        self.wide: MetaStream | None = None

    def build(self, student: nn.Module, stream: MetaStream) -> None:
        head = linear_head(student)
        self.bank = FeatureBank(len(stream), head.in_features, head.weight.dtype)
        self.plan(stream)

    def plan(self, stream: MetaStream) -> None:
        """Let a refresh take the rows of several steps at once: as much arithmetic, and fewer, larger launches."""
        grouped = getattr(stream, "grouped", None)
        size = getattr(stream, "batch_size", len(stream))
        self.every = max(1, min(TOGETHER, len(stream) // size)) if grouped is not None else 1
        self.wide = stream if grouped is None or self.every == 1 else grouped(self.every)

    def held_out(self, student: nn.Module, stream: MetaStream, step: int, device: torch.device) -> tuple[Tensor, Batch]:
        if self.bank is None:
            self.build(student, stream)
        assert self.bank is not None
        self.bank.to(device)
        if not self.bank.targets:
            for batch in stream.all(64):
                self.bank.place(to_device(batch, device))
        if not self.bank.filled:
            for batch in stream.all(64):
                self.bank.refresh(*forward_features(student, to_device(batch, device)))
        elif step % self.every == 0:
            wide = stream if self.wide is None else self.wide
            features, batch = forward_features(student, to_device(share(wide[step // self.every]), device))
            self.bank.refresh(gather_rows(features), {"index": gather_rows(batch["index"])})
        return self.bank.features, self.bank.targets

    def __repr__(self) -> str:
        return "bank"


def linear_head(student: nn.Module) -> nn.Linear:
    """The student's head.

    Raises:
        UserError: if it has none that is linear, or none with a weight of its own that is trained.
    """
    head = getattr(student, "head", None)
    instead = "use `theta=All()` or `theta=LastBlock()`"
    if not isinstance(head, nn.Linear):
        raise UserError(
            "`theta=Head()` and `theta=HeadWithBank()` need a student whose last layer, its attribute head, is "
            f"linear; that of this {type(student).__name__} is not, or hidden in a wrapper; {instead}"
        )
    if not isinstance(head.weight, nn.Parameter):
        raise UserError(
            "`theta=Head()` and `theta=HeadWithBank()` differentiate by the weight of the student's last layer, "
            f"which is computed from other parameters here (a parametrization); {instead}"
        )
    if not head.weight.requires_grad:
        raise UserError(
            "`theta=Head()` and `theta=HeadWithBank()` differentiate by the student's last layer, which is frozen "
            f"here; {instead}"
        )
    return head


@torch.no_grad()
def forward_features(student: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The head's inputs for a batch, without dropout, and the batch."""
    with without_dropout(student):
        return student(batch)["features"], batch
