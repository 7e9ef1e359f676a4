"""A network on tensors as a student or a teacher on batches."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from rwkd_lightning.utils.errors import UserError


class FromBatch(nn.Module):
    """Calls ``network(*[batch[name] for name in inputs])`` and names what it returns: ``{output: ...}``.

    Args:
        network: any module; one that returns a dict already keeps its names.
        inputs: names in the batch, in the order of the network's arguments.
        head: the name of its last linear layer, as ``"fc"``; its inputs are then given out as ``features``, and the
            meta step can be taken over the head alone, which is cheap.
        output: the name of a tensor that it returns.

    Raises:
        AttributeError: for a head that the network does not have.
        UserError: by a call, for an input that the batch lacks.
    """

    def __init__(self, network: nn.Module, *inputs: str, head: str | None = None, output: str = "logits") -> None:
        super().__init__()
        self.network, self.inputs, self.head_name, self.output = network, inputs, head, output
        if head is not None:
            network.get_submodule(head)

    @property
    def head(self) -> nn.Module | None:
        """The network's last layer, if it was named."""
        return None if self.head_name is None else self.network.get_submodule(self.head_name)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name, one row per sample."""
        if missing := [name for name in self.inputs if name not in batch]:
            raise UserError(
                f"FromBatch reads {missing[0]!r}, which the batch ({', '.join(sorted(batch))}) lacks; name what it has"
            )
        inputs = [batch[name] for name in self.inputs]
        features: list[Tensor] = []
        # for this pass only: a hook that stays would keep the tensors of a pass that has ended
        hook = self.head.register_forward_pre_hook(lambda _, given: features.append(given[0])) if self.head else None
        try:
            found = self.network(*inputs)
        finally:
            if hook is not None:
                hook.remove()
        outputs = dict(found) if isinstance(found, Mapping) else {self.output: found}
        return {**outputs, "features": features[-1]} if features else outputs
