"""Logits of a model for a whole split, in the split's order."""

from __future__ import annotations

import time
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from rwkd_lightning.meta.restriction import to_device


@torch.inference_mode()
def predict(model: nn.Module, loader: Iterable[dict[str, Tensor]], size: int, device: torch.device,
            description: str) -> Tensor:
    """``(N, C)`` in float32: row i for the sample with ``index`` i, whatever order the loader has."""
    model.eval().to(device)
    logits: Tensor | None = None
    for batch in tqdm(loader, desc=description, leave=False):
        out = model(to_device(batch, device))["logits"].float().cpu()
        if logits is None:
            logits = torch.full((size, out.shape[1]), float("nan"))
        logits[batch["index"]] = out
    if logits is None or bool(logits.isnan().any()):
        raise RuntimeError(f"{description}: some samples got no finite logits")
    return logits


@torch.inference_mode()
def speed_ratio(slow: nn.Module, fast: nn.Module, batches: list[dict[str, Tensor]], device: torch.device) -> float:
    """How many times faster ``fast`` answers the same batches, measured side by side; the median over batches."""
    ratios = []
    for model in (slow, fast):
        model.eval().to(device)
        model(to_device(batches[0], device))
    for batch in batches:
        placed = to_device(batch, device)
        ratios.append(seconds(slow, placed) / seconds(fast, placed))
    return float(torch.tensor(ratios).median())


def seconds(model: nn.Module, batch: dict[str, Tensor]) -> float:
    """Wall time of one forward pass."""
    cuda = batch["input_ids"].device.type == "cuda"
    start = time.perf_counter()
    model(batch)
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start
