"""The contract of batches, student and teacher, and the one line that says what is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from rwkd_lightning.meta.restriction import to_device
from rwkd_lightning.terms import Term
from rwkd_lightning.terms.base import of_each
from rwkd_lightning.utils.errors import UserError


def check_batch(batch: Any, size: int) -> None:
    """Refuse a training batch that is no dict, or does not say which of ``size`` training samples its rows are."""
    if not isinstance(batch, Mapping):
        raise UserError(
            f"a training batch is a {type(batch).__name__} and not a dict; name its parts: "
            "DataLoader(IndexedDataset(dataset, 'x', 'labels'), ...)"
        )
    if "index" not in batch:
        raise UserError(
            f"a training batch has {sorted(batch)} and no 'index', the place of each row in the training set; use "
            "DataLoader(IndexedDataset(dataset), ...)"
        )
    index = batch["index"]
    if index.device.type != "cpu":  # its numbers are not read, as the host would wait for them
        return
    places = index.numpy()
    if not 0 <= places.min() <= places.max() < size:
        raise UserError(
            f"a training batch has an 'index' from {places.min()} to {places.max()}, and train_size is "
            f"{size}; leave train_size out and use DataLoader(IndexedDataset(dataset), ...)"
        )


def losses(terms: Sequence[Term], outputs: Any, batch: Mapping[str, Tensor]) -> list[Tensor]:
    """Each term of all samples, ``(B,)``; UserError for outputs without names, and for what a term reads and nobody
    gives.
    """
    if not isinstance(outputs, Mapping):
        raise UserError(
            f"the student returned a {type(outputs).__name__} and not outputs by name; return {{'logits': ...}}, or "
            "use FromBatch(student, 'x')"
        )
    try:
        return of_each(terms, outputs, batch)
    except KeyError as error:
        name = error.args[0] if error.args else ""
        if name in batch or name in outputs or not isinstance(name, str):
            raise  # a term's own
        give = (
            f"give DistillationModule a teacher, or the batches {name!r}"
            if name.startswith("teacher_")
            else "put it into the batches, or into what the student returns"
        )
        raise UserError(
            f"a loss term reads {name!r}, which neither the batch ({', '.join(sorted(batch))}) nor the student's "
            f"outputs ({', '.join(sorted(outputs))}) have; {give}"
        ) from error


def rows_of(loader: Any) -> int:
    """N, the rows of a training loader's dataset.

    Raises:
        UserError: for one without a length.
    """
    dataset = getattr(loader, "dataset", None)
    try:
        return len(dataset)  # type: ignore[arg-type]
    except TypeError:
        raise UserError(
            f"the training data ({type(loader).__name__}) has no length, so the record of its samples has none; give "
            "DistillationModule their number, train_size"
        ) from None


def columns_of(loader: Any, answer: Callable[[dict[str, Tensor]], None], device: torch.device) -> dict[str, Tensor]:
    """The columns of a training set in the order of its rows: labels, flags, other numbers, and the teacher's.

    Args:
        loader: its dataset and collate function are used.
        answer: adds the teacher's outputs to a batch.
        device: the teacher's.
    """
    found: dict[str, list[Tensor]] = {}
    # a generator of its own: else the pass would advance the global one, which drives dropout
    rows = DataLoader(
        loader.dataset, loader.batch_size or 64, collate_fn=loader.collate_fn, generator=torch.Generator()
    )
    for batch in rows:
        batch = to_device(batch, device)
        answer(batch)
        for name, value in batch.items():
            if isinstance(value, Tensor) and (value.ndim == 1 or name.startswith("teacher_")):
                found.setdefault(name, []).append(value.cpu())
    return {name: torch.cat(parts) for name, parts in found.items()}


def device_of(network: nn.Module | None) -> torch.device:
    """The device of a network's parameters; the CPU for none."""
    parameter = next(network.parameters(), None) if network is not None else None
    return torch.device("cpu") if parameter is None else parameter.device
