"""A Hugging Face sequence classifier as the rest of the package sees it: batch in, outputs by name out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rwkd_lightning.systems.text.models.layer_hooks import Tap, check_layers, value_projection
from rwkd_lightning.systems.text.models.probing import probe_ids, taking
from rwkd_lightning.systems.text.models.wrapping import inputs_of, unwrapped


class Classifier(nn.Module):
    """Wraps a sequence classifier (C logits; C = 1 for regression).

    Args:
        network: any ``AutoModelForSequenceClassification``.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.order: list[int] | None = None
        """Of a teacher used as it is: the output that stands for each label of the task."""
        self.fresh: set[str] = set()
        """Names of the network's parameters that its checkpoint did not bring: they begin at random numbers."""
        self.inputs = inputs_of(network)  # a tokenizer may give more than this model reads
        self._head_name = find_head(network)
        config: Any = unwrapped(network).config
        self._end: int | None = config.eos_token_id if config.is_encoder_decoder else None
        self._captured: Tensor | None = None
        self._taps: dict[str, Tap] = {}
        self.kept_layers: dict[str, list[int]] = {}
        """Of each output beyond the logits, the blocks it comes from."""
        if self.head is not None:
            self.head.register_forward_pre_hook(self._capture)

    @property
    def head(self) -> nn.Linear | None:
        """The linear layer that gives the logits; None if the last layer is not linear."""
        module = self.network.get_submodule(self._head_name) if self._head_name else None
        module = getattr(module, "_orig_mod", module)  # compiled since
        return module if isinstance(module, nn.Linear) else None

    def _capture(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        self._captured = args[0]

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``logits`` ``(B, C)``; their layer's inputs as ``features`` ``(B, H)`` where it is linear; and what ``keep``
        names. For texts in windows see `over_windows`.
        """
        if batch["input_ids"].ndim == 3:
            return self.over_windows(batch)
        if self._end is not None:  # found by the last of its end tokens, of which all rows must have as many
            counts = (batch["input_ids"] == self._end).sum(1)
            groups = [torch.nonzero(counts == n)[:, 0] for n in sorted(set(counts.tolist()))]
            if len(groups) > 1:
                parts = [self({name: batch[name][rows] for name in self.inputs if name in batch}) for rows in groups]
                back = torch.cat(groups).argsort()
                return {name: torch.cat([part[name] for part in parts])[back] for name in parts[0]}
        self._captured = None
        logits = self.network(**{n: batch[n] for n in self.inputs if n in batch}).logits
        outputs = {"logits": logits if self.order is None else logits[:, self.order]}
        if self._captured is not None:
            outputs["features"] = self._captured
            self._captured = None
        outputs |= {name: tap.take(batch.get("attention_mask")) for name, tap in self._taps.items()}
        return outputs

    def over_windows(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs of rows of several windows, tokens ``(B, W, T)``: the means over each row's windows.

        Those of the features go with those of the logits, which a linear head gives of them. Not for hidden states of
        all tokens, whose windows overlap.
        """
        there = batch["attention_mask"].any(2)  # others are padding throughout
        tokens = {name: batch[name][there] for name in (*self.inputs, "attention_mask") if name in batch}
        row = there.nonzero()[:, 0]
        count = there.sum(1)
        means = {}
        for name, output in self(tokens).items():
            total = output.new_zeros(len(there), *output.shape[1:]).index_add(0, row, output)
            means[name] = total / count.view(-1, *[1] * (output.ndim - 1))
        return means

    def keep(self, name: str, layers: Sequence[int], pool: str = "tokens", values: bool = False) -> None:
        """Give out hidden states of these blocks, or their attention's values, as the output ``name`` from now on.

        ``(B, L, H)`` for L layers, or ``(B, L, T, H)`` with ``pool="tokens"``; see ``taps.Tap``.

        Raises:
            UserError: if a block does not exist or is run several times, or has no values of its own.
        """
        blocks = list(find_blocks(self.network)[1])
        check_layers(layers, blocks, unwrapped(self.network))
        self.drop(name)
        inner: Any = unwrapped(self.network)
        tapped = [value_projection(blocks[i], inner) if values else blocks[i] for i in layers]
        self._taps[name] = Tap(tapped, pool, values, time_first=inner.config.model_type == "xlnet")
        self.kept_layers[name] = list(layers)

    def drop(self, name: str) -> None:
        """Undo ``keep``."""
        tap = self._taps.pop(name, None)
        self.kept_layers.pop(name, None)
        if tap is not None:
            tap.remove()

    def describe(self, name: str) -> dict[str, Any]:
        """The arguments of ``keep``, for the key of a cache."""
        tap = self._taps[name]
        return {"layers": self.kept_layers[name], "pool": tap.pool, "values": tap.values}

    @property
    def num_blocks(self) -> int:
        """Transformer blocks."""
        return len(find_blocks(self.network)[1])

    @property
    def width(self) -> int:
        """H of the hidden states."""
        config: Any = unwrapped(self.network).config
        return int(config.get_text_config().hidden_size)

    def block_names(self) -> list[str]:
        """Names of the trainable parameters from the last transformer block on; none where all of these are frozen."""
        return names_from_last_block(self, self.network)


def names_from_last_block(student: nn.Module, network: nn.Module) -> list[str]:
    """Names of the student's trainable parameters from the last block of its ``network`` on."""
    name, blocks = find_blocks(network)
    last = f"network.{name}.{len(blocks) - 1}."
    named = list(student.named_parameters())
    first = next((i for i, (n, _) in enumerate(named) if n.startswith(last)), 0)
    return [n for n, p in named[first:] if p.requires_grad]


def find_blocks(network: nn.Module) -> tuple[str, nn.ModuleList]:
    """The stack of transformer blocks and its name: of the module lists as long as the config says, that with most
    parameters.
    """
    lists = [(n, m) for n, m in network.named_modules() if isinstance(m, nn.ModuleList)]
    if not lists:
        raise ValueError("the network has no list of blocks")
    config: Any = unwrapped(network).config
    count = getattr(config.get_text_config(), "num_hidden_layers", None)
    lists = [item for item in lists if len(item[1]) == count] or lists  # ALBERT has one block for all
    return max(lists, key=lambda item: sum(p.numel() for p in item[1].parameters()))


@torch.no_grad()
def find_head(network: nn.Module) -> str | None:
    """Name of the linear layer whose output is the logits, found by running a short text through the network."""
    seen: list[tuple[str, Tensor]] = []
    hooks = [
        m.register_forward_hook(lambda _, __, out, name=n: seen.append((name, out)))
        for n, m in network.named_modules()
        if isinstance(m, nn.Linear)
    ]
    try:
        logits = taking(network, probe_ids(network, 8))
    finally:
        for hook in hooks:
            hook.remove()
    tensors = [(n, out) for n, out in reversed(seen) if isinstance(out, Tensor)]  # a router of experts gives several
    return next((n for n, out in tensors if out.shape == logits.shape and torch.equal(out, logits)), None)
