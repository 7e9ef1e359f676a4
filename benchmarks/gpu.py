"""Milliseconds and MiB of a training step on a GPU: kinds of meta step, ``kd`` and a bare loop, in turns in one run.

    python -m benchmarks.gpu [--minutes 4.5 --turns 3 --steps 12 --out gpu.json]
    python -m benchmarks.gpu --sizes tiny --batches 4 --steps 3 --turns 1      # on a CPU, to see that it runs

Models of MiniLM's (six blocks) and BERT-base's size with random weights, rows of random tokens, so nothing is
downloaded. A visit is a short training of its own under a Trainer; its first steps (allocations, first uses of kernels,
the fill of the bank) are not timed, and the others are timed as one span, between two waits for the device: waiting
after each step would hide what runs ahead. Ratios are taken turn by turn, against ``kd`` of the same turn. ``bare`` is
a loop in this file, of the same model: cached logits, fused AdamW, clipping, no checks, no record. Host calls a step
(launches, synchronisations, copies) are those that the profiler sees; on a CPU there are none.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.timing import CLASSES, HELD_OUT, Steps, machine, quiet, ratios, rows
from rwkd_lightning.bilevel import FiniteDifference, Jvp
from rwkd_lightning.meta import All, HeadWithBank, MetaStep
from rwkd_lightning.systems.text.models import Classifier
from rwkd_lightning.terms import CrossEntropy, DistillationKL
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.training.optim import adamw
from rwkd_lightning.weighting import RWKD, ClassificationFeatures, FixedAlpha

SIZES = {"tiny": (16, 2, 2, 32), "minilm-6": (384, 6, 12, 1536), "bert-base": (768, 12, 12, 3072)}
"""Hidden size, blocks, heads, intermediate size."""
WORDS, REFRESH, UNTIMED = 30_522, 8, 5
TARGETS = {"default": 1.10, "all": 2.4, "all, lookahead": 3.1, "kd / bare": 1.05}


class HeldOut:
    """Held-out rows of random tokens, in order."""

    def __init__(self, rows: dict[str, Tensor], batch_size: int) -> None:
        self.rows, self.batch_size = rows, batch_size

    def __len__(self) -> int:
        return len(self.rows["labels"])

    def take(self, places: Tensor) -> dict[str, Tensor]:
        """These rows, and their places."""
        return {**{name: value[places] for name, value in self.rows.items()}, "index": places}

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        return self.take((torch.arange(self.batch_size) + step * self.batch_size) % len(self))

    def grouped(self, count: int) -> HeldOut:
        """The same rows in larger batches."""
        return HeldOut(self.rows, count * self.batch_size)

    def all(self, batch_size: int) -> Iterator[dict[str, Tensor]]:
        """Every row once."""
        yield from (self.take(places) for places in torch.arange(len(self)).split(batch_size))


def held_out(batch_size: int, length: int) -> HeldOut:
    """``HELD_OUT`` rows."""
    return HeldOut({n: v for n, v in rows(HELD_OUT, length, 7).items() if n != "index"}, batch_size)


def network(size: str) -> nn.Module:
    """A random sequence classifier."""
    from transformers import BertConfig, BertForSequenceClassification

    hidden, blocks, heads, inner = SIZES[size]
    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(vocab_size=WORDS, hidden_size=hidden, num_hidden_layers=blocks, num_attention_heads=heads,
                   intermediate_size=inner, num_labels=CLASSES))  # fmt: skip


def modules(first: nn.Module, batch: int, length: int, train_size: int) -> dict[str, DistillationModule]:
    """Kind -> module, as the shipped configuration builds it."""

    def build(meta: MetaStep | None) -> DistillationModule:
        weighting = FixedAlpha() if meta is None else RWKD(ClassificationFeatures())
        return DistillationModule(
            Classifier(copy.deepcopy(first)), [CrossEntropy(), DistillationKL(2.0)], weighting,
            functools.partial(adamw, lr=1e-5), train_size, meta=meta, metrics={})  # fmt: skip

    loss = [CrossEntropy()]
    return {
        "kd": build(None),
        "default": build(MetaStep(Jvp(), HeadWithBank(), loss, held_out(REFRESH, length))),
        "all": build(MetaStep(FiniteDifference(), All(), loss, held_out(batch, length))),
        "all, lookahead": build(MetaStep(FiniteDifference(), All(), loss, held_out(batch, length), 0.01)),
    }


class Span(lightning.Callback):
    """Seconds from the ``first`` step to the end, the device waited for at both."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last
        self.seconds = float("nan")

    def on_train_batch_start(self, trainer: lightning.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.first:
            wait()
            self.start = time.perf_counter()

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, out: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.last:
            wait()
            self.seconds = (time.perf_counter() - self.start) / (self.last - self.first + 1)


def wait() -> None:
    """For the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def under_trainer(module: DistillationModule, data: Steps, steps: int, precision: str) -> float:
    """Seconds of a step, the mean of ``steps``; one more is not timed, as the last of an epoch is logged."""
    span = Span(UNTIMED, UNTIMED + steps - 1)
    trainer = lightning.Trainer(
        max_steps=UNTIMED + steps + 1, accelerator="auto", devices=1, precision=precision, logger=False,
        enable_checkpointing=False, callbacks=[span], enable_model_summary=False,
        enable_progress_bar=False)  # type: ignore[arg-type]  # fmt: skip
    trainer.fit(module, DataLoader(data, batch_size=None))
    module.cpu()  # the next kind has the memory for itself
    module.trainer = None
    return span.seconds


def bare(student: nn.Module, data: Steps, steps: int, precision: str) -> float:
    """As ``under_trainer``: plain distillation in a loop of twenty lines."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student.to(device).train()
    optimizer = adamw(student, lr=1e-5)
    half = precision.startswith("bf16")
    for number in range(UNTIMED + steps):
        if number == UNTIMED:
            wait()
            start = time.perf_counter()
        batch = {name: value.to(device, non_blocking=True) for name, value in data[number].items()}
        with torch.autocast(device.type, torch.bfloat16) if half else contextlib.nullcontext():
            logits = student(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()
            log_p, log_q = (logits / 2).log_softmax(-1), (batch["teacher_logits"] / 2).log_softmax(-1)
            divergence = 4 * (log_q.exp() * (log_q - log_p)).sum(-1).mean()
            loss = 0.5 * F.cross_entropy(logits, batch["labels"]) + 0.5 * divergence
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    wait()
    seconds = (time.perf_counter() - start) / steps
    student.cpu()
    return seconds


def visits(size: str, batch: int, length: int, steps: int, precision: str) -> dict[str, Callable[[], float]]:
    """Kind -> one visit."""
    data = Steps(UNTIMED + steps + 2, batch, length)
    first = network(size)
    found: dict[str, Callable[[], float]] = {
        name: functools.partial(under_trainer, module, data, steps, precision)
        for name, module in modules(first, batch, length, HELD_OUT).items()
    }
    return {"bare": functools.partial(bare, copy.deepcopy(first), data, steps, precision), **found}


def host_calls(visit: Callable[[], float], steps: int) -> dict[str, float]:
    """Launches, synchronisations and copies of a visit, a step: set-up is in them, so compare kinds."""
    with torch.profiler.profile(activities=list(torch.profiler.supported_activities())) as seen:
        visit()
    wanted = {"launches": ("LaunchKernel",), "synchronisations": ("Synchronize",), "copies": ("MemcpyAsync",)}
    return {
        name: sum(e.count for e in seen.key_averages() if e.key.startswith("cu") and e.key.endswith(keys)) / steps
        for name, keys in wanted.items()
    }


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each model, batch and precision."""
    end = time.monotonic() + 60 * options.minutes
    for size, batch, precision in (
        (s, b, p) for p in options.precisions for b in options.batches for s in options.sizes
    ):
        kinds = visits(size, batch, options.length, options.steps, precision)
        seconds: dict[str, list[float]] = {name: [] for name in kinds}
        mib: dict[str, float] = {}
        for turn in range(options.turns):
            names = list(kinds)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                if time.monotonic() < end:
                    if torch.cuda.is_available():
                        torch.cuda.empty_cache()
                        torch.cuda.reset_peak_memory_stats()
                    seconds[name].append(kinds[name]())
                    mib[name] = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0
        whole = min(len(s) for s in seconds.values())  # the last turn may have been cut short
        if not whole:
            print(f"{size}, batch {batch}, {precision}: no time left")
            continue
        seconds = {name: s[:whole] for name, s in seconds.items()}
        found: dict[str, Any] = {"size": size, "batch": batch, "precision": precision, "seconds": seconds, "mib": mib}
        found["of kd"] = {name: ratios(seconds, name, "kd") for name in seconds}
        found["kd / bare"] = ratios(seconds, "kd", "bare")
        if options.profile:
            found["host calls"] = {n: host_calls(kinds[n], UNTIMED + options.steps) for n in ("bare", "kd", "default")}
        yield found
        del kinds
        gc.collect()


def tell(row: dict[str, Any]) -> None:
    """Print a row of the table."""
    print(f"\n{row['size']}, batch {row['batch']}, {row['precision']}")
    for name, seconds in row["seconds"].items():
        ratio, memory = row["of kd"][name], row["mib"][name] / max(row["mib"]["kd"], 1e-9)
        goal = f"   goal {TARGETS[name]}" if name in TARGETS else ""
        print(f"  {name:<16}{1e3 * statistics.median(seconds):>8.1f} ms ({1e3 * min(seconds):.1f} to "
              f"{1e3 * max(seconds):.1f}){ratio['median']:>8.2f} of kd ({ratio['min']:.2f} to {ratio['max']:.2f})"
              f"{memory:>7.2f} of its memory{goal}")  # fmt: skip
    of_bare = row["kd / bare"]
    print(f"  kd / bare {of_bare['median']:.2f} ({of_bare['min']:.2f} to {of_bare['max']:.2f})   goal 1.05")
    for name, calls in row.get("host calls", {}).items():
        print(f"  {name}: " + ", ".join(f"{number:.0f} {what}" for what, number in calls.items()) + " a step")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--sizes", nargs="+", default=["minilm-6", "bert-base"], choices=list(SIZES))
    parser.add_argument("--batches", nargs="+", type=int, default=[32, 128])
    parser.add_argument("--precisions", nargs="+", default=["32-true", "bf16-mixed"])
    parser.add_argument("--length", type=int, default=64, help="tokens a row")
    parser.add_argument("--steps", type=int, default=16, help="timed steps of a visit")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=4.5, help="no visit begins later")
    parser.add_argument("--profile", action="store_true", help="count the host's calls too, in a visit of their own")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="JSON file to write")
    options = parser.parse_args(arguments)
    quiet()
    result: dict[str, Any] = {"settings": {k: v for k, v in vars(options).items() if k != "out"},
                              "machine": machine(), "targets": TARGETS, "measured": []}  # fmt: skip
    print(json.dumps(result["machine"]))
    for row in measure(options):
        result["measured"].append(row)
        options.out.write_text(json.dumps(result, indent=1) + "\n")
        tell(row)


if __name__ == "__main__":
    main()
