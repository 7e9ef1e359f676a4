"""Logits of a model for a whole split, in the split's order."""

from __future__ import annotations

import time
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from rwkd_lightning.meta.restriction import to_device
from rwkd_lightning.utils import bars


@torch.inference_mode()
def predict(
    model: nn.Module,
    loader: Iterable[dict[str, Tensor]],
    size: int,
    device: torch.device,
    description: str,
    precision: str = "32-true",
    output: str = "logits",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """One of the model's outputs, ``(N, C)`` for logits: row i belongs to the sample with ``index`` i.

    Args:
        precision: as the Trainer's; the bfloat16 kinds compute in mixed precision.
        output: its name.
        dtype: of the result.
    """
    model.eval().to(device)
    table: Tensor | None = None
    for batch in bars.over(loader, description):
        with torch.autocast(device.type, torch.bfloat16, enabled=precision.startswith("bf16")):
            out = model(to_device(batch, device))[output].to(dtype).cpu()
        if table is None:
            table = torch.full((size, *out.shape[1:]), float("nan"), dtype=dtype)
        table[batch["index"]] = out
    if table is None or bool(table.isnan().any()):
        raise RuntimeError(f"{description}: some samples got no finite {output}")
    return table


@torch.inference_mode()
def speed_ratio(
    slow: nn.Module, fast: nn.Module, batches: list[tuple[dict[str, Tensor], dict[str, Tensor]]], device: torch.device
) -> float:
    """How many times faster ``fast`` answers the same texts, each model given its own tokens of them: the median over
    batches, measured side by side.
    """
    pairs = [(to_device(a, device), to_device(b, device)) for a, b in batches]
    for model, batch in zip((slow, fast), pairs[0], strict=True):
        model.eval().to(device)
        model(batch)
    return float(torch.tensor([seconds(slow, a) / seconds(fast, b) for a, b in pairs]).median())


def seconds(model: nn.Module, batch: dict[str, Tensor]) -> float:
    """Wall time of one forward pass."""
    cuda = batch["index"].device.type == "cuda"
    start = time.perf_counter()
    model(batch)
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start
