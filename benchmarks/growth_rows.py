"""How time and memory grow with the number of training rows, stage by stage: for ``kd`` and the default ``rwkd``.

    python benchmarks/growth_rows.py [--rows 1000 3000 10000 30000 100000 350000]

Texts of 6 to 18 words through the real stages (checks, tokens and teacher logits by way of the cache, training steps,
``weights.parquet``) with random BERTs of one block, so small that a step's own memory hides nothing; each number of
rows in a process of its own. Memory is anonymous memory (RssAnon, sampled every 2 ms for its peak) above that after all
imports; pages of mapped files, which the kernel takes back when it needs them, are in VmHWM only. Bytes a row: from the
fewest rows to the most. Exponents are the slopes of least squares in log-log. With everything else:
``growth_steps.py``. Linux only.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
import transformers.models.bert.modeling_bert as bert
from datasets import Dataset
from growth_steps import BATCH, METHODS, MINILM, exponent, module_of
from memory import apart, settle, sizes
from omegaconf import OmegaConf
from timing import REFRESH, Stopwatch, machine, quiet

from rwkd_lightning.cache.store import Store
from rwkd_lightning.run.outputs import write_weights
from rwkd_lightning.systems.text import teacher as stages
from rwkd_lightning.systems.text.data.datamodule import DistillationDataModule
from rwkd_lightning.systems.text.data.task import TaskData, TaskSpec
from rwkd_lightning.systems.text.models import load_classifier, load_tokenizer
from rwkd_lightning.terms import CrossEntropy, DistillationKL
from rwkd_lightning.training.module import DistillationModule

ROWS = [1_000, 3_000, 10_000, 30_000, 100_000, 350_000]
STAGES = ("check", "tokenise", "logits", "order", "step kd", "step rwkd", "weights.parquet")


class Anonymous(threading.Thread):
    """Samples the anonymous memory of this process; ``peak``, in MiB, since it was last set to 0."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0.0

    def run(self) -> None:
        while True:
            self.peak = max(self.peak, sizes()["RssAnon"])
            time.sleep(0.002)


def texts(count: int) -> Iterator[str]:
    """Distinct sentences of 6 to 18 words and a number, of a small vocabulary."""
    rng = np.random.default_rng(0)
    words = [
        "the",
        "a",
        "film",
        "story",
        "plot",
        "actor",
        "scene",
        "music",
        "was",
        "seems",
        "good",
        "bad",
        "slow",
        "very",
        "so",
    ]
    for start in range(0, count, 1000):
        for place in range(start, min(start + 1000, count)):
            yield f"{' '.join(rng.choice(words, rng.integers(6, 18)))} {place}"


def split_of(folder: Path, name: str, first: int, stop: int, lines: Iterator[str]) -> Dataset:
    """Rows first to stop, mapped from a file, as a data set of the hub is."""
    schema = pa.schema([("idx", pa.int64()), ("label", pa.int64()), ("text", pa.string())])
    file = folder / f"{name}.arrow"
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for start in range(first, stop, 1000):
            idx = np.arange(start, min(start + 1000, stop))
            writer.write_batch(pa.record_batch([idx, idx % 3, [next(lines) for _ in idx]], schema=schema))
    return Dataset.from_file(str(file))


def tiny_teacher(folder: Path, tokenizer: Any) -> Path:
    """A random BERT of one block, 32 wide, with a classifier of three classes, on disk."""
    torch.manual_seed(0)
    config = bert.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        num_labels=3,
        id2label=dict(enumerate("abc")),
        label2id={c: i for i, c in enumerate("abc")},
    )
    bert.BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def measure(rows: int, steps: int) -> dict[str, Any]:
    """Seconds and MiB of anonymous memory of every stage, and the peak with mapped pages."""
    with tempfile.TemporaryDirectory() as folder:
        return stages_of(Path(folder), rows, steps)


def stages_of(folder: Path, rows: int, steps: int) -> dict[str, Any]:
    quiet()
    task = TaskSpec("growth", ("text",), tuple("abc"), ("accuracy",), "accuracy", ("validation",))
    tokenizer = load_tokenizer(MINILM)
    model = tiny_teacher(folder / "model", tokenizer)
    lines = texts(rows + 600)
    splits = {"train": split_of(folder, "train", 0, rows, lines)}
    splits["teacher_train"] = splits["train"]
    splits["meta"] = split_of(folder, "meta", rows, rows + 500, lines)
    splits["validation"] = split_of(folder, "validation", rows + 500, rows + 600, lines)
    settle()
    base, watch = sizes(), Anonymous()
    watch.start()
    found: dict[str, dict[str, float]] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        settle()
        watch.peak, start = 0.0, time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        peak, highest = max(watch.peak, sizes()["RssAnon"]), sizes()["VmHWM"]
        settle()
        found[name] = {
            "seconds": seconds,
            "peak_anon_mib": peak - base["RssAnon"],
            "peak_rss_mib": highest - base["VmRSS"],
            "left_anon_mib": sizes()["RssAnon"] - base["RssAnon"],
        }

    store = Store(folder / "cache")
    with stage("check"):
        data = TaskData(task, splits)
        data.fingerprint("train")
    config = OmegaConf.create(
        {
            "seed": 0,
            "data": {"max_length": 32, "eval_batch_size": 64},
            "meta": {"batch_size": REFRESH},
            "pair": {"teacher": {"path": str(model), "precision": "32-true"}},
            "trainer": {"accelerator": "cpu"},
        }
    )
    loaders_of = functools.partial(
        DistillationDataModule, data, tokenizer, max_length=32, batch_size=BATCH, meta_batch_size=REFRESH, store=store
    )
    with stage("tokenise"):
        loaders_of().setup()
    with stage("logits"):
        logits = stages.logits(config, stages.Teacher(model, 0), data, store, torch.device("cpu"))
    loaders = loaders_of(teacher_logits=logits)
    loaders.setup()
    with stage("order"):
        for _ in loaders.train_dataloader().batch_sampler:
            pass
    for method in METHODS:
        network = load_classifier(str(model), task)
        module = module_of(method, network, [CrossEntropy(), DistillationKL(2.0)], rows, loaders.meta_stream)
        with stage(f"step {method}"):
            times = fit(module, loaders, steps)
        found[f"step {method}"]["seconds"] = statistics.median(times[1:])
        if method == METHODS[0]:
            del module, network
            gc.collect()
    file = folder / "weights.parquet"
    with stage("weights.parquet"):
        columns = write_weights(file, module.ledger, loaders)
    assert len(columns["idx"]) == pyarrow.parquet.read_metadata(file).num_rows == rows
    return {
        "stages": found,
        "weights_bytes": file.stat().st_size,
        "ledger_bytes": sum(b.numel() * b.element_size() for b in module.ledger.buffers()),
    }


def fit(module: DistillationModule, loaders: DistillationDataModule, steps: int) -> list[float]:
    """Seconds of each training step on the real loader."""
    watch = Stopwatch()
    trainer = lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        callbacks=[watch],
        enable_model_summary=False,
        enable_progress_bar=False,
        limit_val_batches=0,
        use_distributed_sampler=False,
    )
    trainer.fit(module, datamodule=loaders)
    module.trainer = loaders.trainer = None
    del trainer
    return watch.seconds


def sweep(counts: list[int], steps: int) -> dict[str, Any]:
    """Measure and print the stages of a run by number of rows."""
    found = [apart(__file__, rows=count, steps=steps) for count in counts]
    print(f"\n{'stage':<17}" + "".join(f"{count:>10}" for count in counts) + f"{'exponent':>10}")

    def line(label: str, values: list[float], figure: Callable[[float], str], last: str) -> None:
        print(f"{label:<17}" + "".join(f"{figure(v):>10}" for v in values) + f"{last:>10}", flush=True)

    result: dict[str, Any] = {"values": counts, "rows": found, "exponents": {}, "bytes_per_row": {}}
    by = {
        name: {key: [row["stages"][name][key] for row in found] for key in found[0]["stages"][name]} for name in STAGES
    }
    print("seconds (of a step: the median)")
    for name, of in by.items():
        result["exponents"][name] = slope = exponent([*map(float, counts)], of["seconds"])
        line(name, of["seconds"], lambda v: f"{v:.4f}", f"{slope:.2f}")
    for key, title in (
        ("peak_anon_mib", "peak of anonymous memory, MiB above the imports; bytes a row"),
        ("left_anon_mib", "anonymous memory left after the stage, MiB; bytes a row"),
        ("peak_rss_mib", "peak with pages of mapped files, MiB; bytes a row"),
    ):
        print(title)
        for name, of in by.items():
            each = (of[key][-1] - of[key][0]) * 2**20 / max(1, counts[-1] - counts[0])
            result["bytes_per_row"][f"{key} {name}"] = each
            line(name, of[key], lambda v: f"{v:.1f}", f"{each:.0f}")
    print("the ledger, of all these, MiB; bytes a row")
    each = found[-1]["ledger_bytes"] / counts[-1]
    line("", [row["ledger_bytes"] / 2**20 for row in found], lambda v: f"{v:.1f}", f"{each:.0f}")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="training samples")
    parser.add_argument("--steps", type=int, default=30, help="training steps at each number of rows")
    parser.add_argument("--out", type=Path, default=Path("growth_rows.json"), help="JSON file to write")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(measure(**options.one)))
        return
    found = sweep(options.rows, options.steps)
    settings = {k: v for k, v in vars(options).items() if k not in ("out", "one")}
    options.out.write_text(json.dumps({"settings": settings, "machine": machine(), "sweep": found}, indent=2) + "\n")
    print(f"\n{', '.join(f'{k} {v}' for k, v in machine().items())}\nwritten to {options.out}")


if __name__ == "__main__":
    main()
