"""Score, size and speed of several forms of a model, measured side by side on the same rows."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rwkd_lightning.export.shipped import Columns, Shipped
from rwkd_lightning.run.result_table import columns as aligned
from rwkd_lightning.run.result_table import mebibytes, number
from rwkd_lightning.utils import bars

Call = Callable[[dict[str, Tensor]], Tensor]
BATCH = 32
SINGLE_ROWS, BATCHES, WARM_UP = 100, 20, 3


@dataclass(frozen=True)
class Form:
    """One form of a model: the teacher, the student, its ONNX file."""

    model: Shipped
    """Makes the tensors."""
    call: Call
    score: float
    bytes: int


def torch_call(model: Shipped, device: str = "cpu") -> Call:
    """A model in PyTorch, called with tensors by name; they and its output are on the CPU."""
    network: nn.Module = model.network().to(device)

    @torch.inference_mode()
    def call(batch: dict[str, Tensor]) -> Tensor:
        outputs: Tensor = network(*(batch[name].to(device) for name in model.inputs))
        return outputs.float().cpu()

    return call


def outputs(
    model: Shipped, call: Call, columns: Columns, description: str, size: int = BATCH, show: bool = True
) -> Tensor:
    """Outputs ``(M, C)`` of N rows in their order, M as `Shipped.counts` says; rows of similar length are asked
    together.
    """
    order = by_length(columns)
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    found = []
    for rows in bars.over(parts, description) if show else parts:
        batch = model.batch(pick(columns, rows))
        found.append(model.gathered(call(batch), batch))
    counts = torch.tensor(model.counts(columns))
    asked = torch.tensor(order)
    return torch.cat(found)[asked.repeat_interleave(counts[asked]).argsort(stable=True)]


def by_length(columns: Columns) -> list[int]:
    """Numbers of the rows, those with the shortest values first."""
    lengths = [sum(map(len, values)) for values in zip(*columns, strict=True)]
    return sorted(range(len(lengths)), key=lengths.__getitem__)


def pick(columns: Columns, rows: Sequence[int]) -> list[list[Any]]:
    """Some rows of some columns."""
    return [[values[i] for i in rows] for values in columns]


def pick_outputs(model: Shipped, outputs: Tensor, columns: Columns, rows: Sequence[int]) -> Tensor:
    """The outputs of some rows, out of those ``(M, C)`` of all."""
    each = torch.split(outputs, model.counts(columns))
    return torch.cat([each[row] for row in rows])


def measure(forms: Mapping[str, Form], columns: Columns) -> dict[str, dict[str, float]]:
    """Milliseconds of a batch of 1 and of 32 rows (median and 95th percentile, the tensors ready), and rows per second
    in batches of 32 from the texts on. The forms take turns, batch by batch, so that they share the machine's moods.
    """
    count = len(columns[0])
    singles = [[i % count] for i in range(SINGLE_ROWS)]
    cycle = itertools.cycle(range(count))
    batches = [[next(cycle) for _ in range(BATCH)] for _ in range(BATCHES)]
    took: dict[str, dict[str, list[float]]] = {name: {"1": [], str(BATCH): [], "texts": []} for name in forms}
    work = [*(("1", rows) for rows in singles), *((str(BATCH), rows) for rows in batches)]
    with torch.inference_mode():
        for form in forms.values():
            for _ in range(WARM_UP):
                form.call(form.model.batch(pick(columns, batches[0])))
        for kind, rows in bars.over(work, "timing"):
            for name, form in forms.items():
                start = time.perf_counter()
                tensors = form.model.batch(pick(columns, rows))
                ready = time.perf_counter()
                form.call(tensors)
                end = time.perf_counter()
                took[name][kind].append(1000 * (end - ready))
                if kind != "1":
                    took[name]["texts"].append(end - start)
    return {name: figures(times) for name, times in took.items()}


def figures(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Percentiles of the milliseconds per batch, and rows per second."""
    found = {
        f"batch_{size}_p{q}_ms": float(np.percentile(times[str(size)], q)) for size in (1, BATCH) for q in (50, 95)
    }
    return found | {"rows_per_second": BATCH * len(times["texts"]) / sum(times["texts"])}


def compare(forms: Mapping[str, Form], columns: Columns, metric: str, split: str) -> dict[str, Any]:
    """Score, bytes and speed of each form, as JSON can write them."""
    speed = measure(forms, columns)
    return {
        "split": split,
        "rows": len(columns[0]),
        "metric": metric,
        "threads": torch.get_num_threads(),
        "models": {name: {metric: form.score, "bytes": form.bytes, **speed[name]} for name, form in forms.items()},
    }


def table(compared: Mapping[str, Any]) -> str:
    """The comparison as text."""
    metric = compared["metric"]
    head = ("", f"{compared['split']} {metric}", "on disk", "1 row p50", "p95", f"{BATCH} rows p50", "p95", "rows/s")
    rows = [
        (
            name,
            number(found[metric]),
            mebibytes(found["bytes"]),
            *(f"{found[f'batch_{size}_p{q}_ms']:.1f} ms" for size in (1, BATCH) for q in (50, 95)),
            f"{found['rows_per_second']:.0f}",
        )
        for name, found in compared["models"].items()
    ]
    threads = compared["threads"]
    below = f"{compared['rows']} rows; {threads} thread{'s' if threads > 1 else ''}; rows/s from the texts on, in 32s"
    return "\n".join([*aligned([head, *rows]), "", below])
