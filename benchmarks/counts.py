"""Operators and host synchronisations of a training step, by weighting method: what a step costs on a GPU whose kernels
are short.

    python -m benchmarks.counts [--methods kd rwkd --blocks 2 --terms 2 --steps 16 --precision bf16-mixed --where]

No GPU and no download is needed: a random BERT of two blocks runs on the CPU. Every operator that PyTorch dispatches is
counted; launches are those that compute something, without views and empty tensors. A synchronisation is an operator
whose result the host needs, or whose size depends on numbers, or a tensor made of Python's numbers. Counts are means
over whole cycles of the bank's refresh, between two logged steps. ``--where`` names the lines of the package that the
launches come from.
"""

from __future__ import annotations

import argparse
import collections
import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Subset

import rwkd_lightning
from benchmarks import tiny
from rwkd_lightning.bilevel import Jvp
from rwkd_lightning.meta import HeadWithBank, MetaStep
from rwkd_lightning.terms import CrossEntropy, DistillationKL, LogitMSE, Term
from rwkd_lightning.training import finite_check
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.training.optim import adamw
from rwkd_lightning.weighting import (
    RWKD,
    AdaptiveMixing,
    AnnealingKD,
    ClassificationFeatures,
    CrossFittedRWKD,
    DynamicWeightAverage,
    FixedAlpha,
    GivenWeights,
    GlobalAlpha,
    GradNorm,
    LabelsOnly,
    LearningToReweight,
    MetaWeightNet,
    Oracle,
    Permuted,
    PerturbationRWKD,
    Sigmoid,
    Staged,
    TeacherAnnealing,
    TeacherConfidence,
    TrilateralGeometry,
    Uncertainty,
    WeightedSoftLabels,
    Weighting,
)

ROWS, BATCH, HELD_OUT, REFRESH, CLASSES, LENGTH, FIRST = 256, 8, 48, 4, 3, 12, 4
SYNCHRONISING = {"_local_scalar_dense", "nonzero", "masked_select", "unique_dim", "_unique2", "equal", "is_nonzero",
                 "lift_fresh"}  # fmt: skip
PACKAGE = str(Path(rwkd_lightning.__file__).parent)

METHODS: dict[str, Callable[[tuple[str, ...]], Weighting]] = {
    "kd": lambda names: FixedAlpha(),
    "ce": lambda names: LabelsOnly(),
    "rwkd": lambda names: RWKD(ClassificationFeatures(), names),
    "rwkd_plain": lambda names: RWKD(ClassificationFeatures(), names, evidence=0.0, entropy=0.0),
    "rwkd, sigmoid, smoothed": lambda names: RWKD(ClassificationFeatures(), names, gate=Sigmoid(), smoothing=0.5),
    "rwkd_cross_fitted": lambda names: CrossFittedRWKD(ClassificationFeatures(), names),
    "rwkd_online": lambda names: PerturbationRWKD(),
    "amal": lambda names: AdaptiveMixing(names),
    "l2rw": lambda names: LearningToReweight(),
    "mwn": lambda names: MetaWeightNet(),
    "tgeo": lambda names: TrilateralGeometry(),
    "global": lambda names: GlobalAlpha(names),
    "permuted": lambda names: Permuted(RWKD(ClassificationFeatures(), names)),
    "given": lambda names: GivenWeights(RWKD(ClassificationFeatures(), names)),
    "oracle": lambda names: Oracle(),
    "annealed": lambda names: TeacherAnnealing(),
    "annealing_kd": lambda names: AnnealingKD(),
    "staged": lambda names: Staged(),
    "teacher_confidence": lambda names: TeacherConfidence(),
    "wls": lambda names: WeightedSoftLabels(),
    "uncertainty": lambda names: Uncertainty(names),
    "dwa": lambda names: DynamicWeightAverage(names, window=3),
    "gradnorm": lambda names: GradNorm(names),
}
"""Every shipped method."""


class Counter(TorchDispatchMode):
    """Counts what is dispatched below it, by the name of the operator; and, if asked, by the package's line."""

    def __init__(self, where: bool = False) -> None:
        super().__init__()
        self.where = where
        self.operators: collections.Counter[str] = collections.Counter()
        self.launches: collections.Counter[str] = collections.Counter()
        self.synchronisations: collections.Counter[str] = collections.Counter()
        self.lines: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.operators[name] += 1
        if not func.is_view and name not in ("detach", "lift_fresh") and "empty" not in name:
            self.launches[name] += 1
            if self.where:
                self.lines[line()] += 1
        if name in SYNCHRONISING or (name.startswith("index") and boolean(args)):
            self.synchronisations[f"{name} {line()}"] += 1
        return func(*args, **(kwargs or {}))


def boolean(args: Any) -> bool:
    """Whether an index is a mask, whose true places the host counts."""
    indices = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else []
    return any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in indices)


def line() -> str:
    """The innermost line of the package on the stack, and the outermost function of the training step."""
    frame, found = sys._getframe(2), ""
    while frame is not None:
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        if file.startswith(PACKAGE):
            found = found or f"{Path(file).relative_to(PACKAGE)}:{frame.f_lineno} {name}"
        frame = frame.f_back  # type: ignore[assignment]
    return found or "elsewhere"


def rows(size: int, seed: int, **more: Tensor) -> dict[str, Tensor]:
    """Random rows of one length."""
    g = torch.Generator().manual_seed(seed)
    return {
        "input_ids": torch.randint(1, 64, (size, LENGTH), generator=g),
        "attention_mask": torch.ones(size, LENGTH, dtype=torch.long),
        "labels": torch.randint(0, CLASSES, (size,), generator=g),
        "teacher_logits": torch.randn(size, CLASSES, generator=g),
        "index": torch.arange(size),
        "idx": torch.arange(size),
        "label_flipped": torch.rand(size, generator=g) < 0.4,
        "teacher_corrupted": torch.rand(size, generator=g) < 0.4,
        "sample_weight": torch.ones(size),
        **more,
    }


class Held:
    """Held-out rows, in order."""

    def __init__(self, batch_size: int = REFRESH) -> None:
        self.rows, self.batch_size = rows(HELD_OUT, 1), batch_size

    def __len__(self) -> int:
        return HELD_OUT

    def grouped(self, count: int) -> Held:
        """The same rows in larger batches."""
        return Held(count * self.batch_size)

    def take(self, places: Tensor) -> dict[str, Tensor]:
        """These rows."""
        return {name: value[places] for name, value in self.rows.items()}

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        return self.take((torch.arange(self.batch_size) + step * self.batch_size) % HELD_OUT)

    def all(self, batch_size: int) -> Iterator[dict[str, Tensor]]:
        """Every row once."""
        yield from (self.take(places) for places in torch.arange(HELD_OUT).split(batch_size))


def loss_terms(count: int) -> list[Term]:
    """Cross-entropy, KD, and further squared distances of the logits."""
    return [CrossEntropy(), DistillationKL(2.0), *(LogitMSE(name=f"mse{k}") for k in range(count - 2))]


class OnlySome(lightning.Callback):
    """Counts the training steps from ``FIRST`` on, without the loader and the loop around them."""

    def __init__(self, counter: Counter, last: int) -> None:
        self.counter, self.last = counter, last

    def on_fit_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        step = module.training_step

        def counted(batch: Mapping[str, Tensor], batch_idx: int) -> None:
            if FIRST <= batch_idx < self.last:
                with self.counter:
                    step(batch, batch_idx)
            else:
                step(batch, batch_idx)

        module.training_step = counted  # type: ignore[method-assign]


def build(method: str, terms: int = 2, blocks: int = 2) -> DistillationModule:
    """A module as the shipped configuration builds it."""
    made = loss_terms(terms)
    if method == "annealing_kd":
        from rwkd_lightning.terms import AnnealedMSE

        made = [CrossEntropy(), AnnealedMSE()]
    weighting = METHODS[method](tuple(term.name for term in made))
    weighting.prepare(rows(ROWS, 0))
    meta = None
    if weighting.needs_influence:
        meta = MetaStep(Jvp(), HeadWithBank(), [CrossEntropy()], Held())
    return DistillationModule(
        tiny.bert(num_hidden_layers=blocks), made, weighting, functools.partial(adamw, lr=1e-5), ROWS, meta=meta
    )


def count(module: DistillationModule, steps: int = 16, where: bool = False, precision: Any = "32-true") -> Counter:
    """All operators that ``steps`` steps dispatch; none of these steps is logged."""
    counter, data = Counter(where), rows(ROWS, 0)
    whole = [{n: v[places] for n, v in data.items()} for places in torch.arange(ROWS).split(BATCH)]
    trainer = lightning.Trainer(
        max_steps=FIRST + steps + 2, accelerator="cpu", precision=precision, devices=1, logger=False,
        enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=False, log_every_n_steps=10_000,
        callbacks=[OnlySome(counter, FIRST + steps)])  # fmt: skip
    trainer.fit(module, DataLoader(Subset(whole, range(len(whole))), batch_size=None))  # type: ignore[arg-type]
    return counter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--blocks", type=int, default=2, help="transformer blocks of the student")
    parser.add_argument("--terms", type=int, default=2, help="loss terms")
    parser.add_argument("--steps", type=int, default=16, help="steps counted; a multiple of the refresh cycle")
    parser.add_argument("--precision", default="32-true", help="as trainer.precision")
    parser.add_argument("--where", action="store_true", help="name the lines that the operators come from")
    options = parser.parse_args()
    from benchmarks.timing import quiet

    quiet()
    finite_check.AT_ONCE = ()  # checks wait as on a GPU
    base: dict[str, float] = {}
    print(f"{'method':<26}{'operators':>10}{'above kd':>10}{'launches':>10}{'above kd':>10}{'synchronisations':>18}")
    for method in ["kd", *(m for m in options.methods if m != "kd")]:
        found = count(build(method, options.terms, options.blocks), options.steps, options.where, options.precision)
        mean = {
            n: sum(getattr(found, n).values()) / options.steps for n in ("operators", "launches", "synchronisations")
        }
        base = base or mean
        print(f"{method:<26}{mean['operators']:>10.1f}{mean['operators'] - base['operators']:>10.1f}"
              f"{mean['launches']:>10.1f}{mean['launches'] - base['launches']:>10.1f}"
              f"{mean['synchronisations']:>18.2f}", flush=True)  # fmt: skip
        if options.where:
            for name, number in found.lines.most_common(70):
                print(f"    {number / options.steps:>8.2f}  {name}")
            for name, number in found.synchronisations.most_common():
                print(f"    {number / options.steps:>8.2f}  synchronises: {name}")


if __name__ == "__main__":
    main()
