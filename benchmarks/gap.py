"""Summarise a sweep over weighting methods and seeds: scores, what the weights found, and the share of the gap closed.

    python train.py -m +experiment=corruption weighting=kd,global,permuted,oracle,rwkd seed=0,1,2,3,4
    python benchmarks/gap.py runs --split test

gap closed = (rwkd − global) / (oracle − global): what weighting *samples* adds to one good weight for all, as a share
of what knowing the truth would add.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf


def main() -> None:
    """Print one row a method (and a setting of it), its paired difference to kd, and the gap closed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--seeds", type=int, nargs="*", help="only these")
    arguments = parser.parse_args()
    scores: dict[str, dict[int, float]] = defaultdict(dict)
    areas: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for file in sorted(arguments.runs.rglob("metrics.json")):
        result = json.loads(file.read_text())
        if arguments.seeds and result["seed"] not in arguments.seeds:
            continue
        name = setting(result["weighting"], file.parent)
        scores[name][result["seed"]] = result["student"][arguments.split][result["metric"]]
        areas[name][result["seed"]] = result.get("corruption", {})
    print(f"{'':36s} {'mean':>7s} {'sd':>7s} {'min':>7s}  by seed")
    for name, by_seed in scores.items():
        values = np.array([by_seed[s] for s in sorted(by_seed)])
        sd = values.std(ddof=1) if len(values) > 1 else float("nan")
        print(f"{name:36s} {values.mean():7.4f} {sd:7.4f} {values.min():7.4f}  {' '.join(f'{v:.4f}' for v in values)}")
        if "kd" in scores and name != "kd":
            paired = np.array([by_seed[s] - scores["kd"][s] for s in sorted(by_seed) if s in scores["kd"]])
            print(
                f"{'  minus kd':36s} {paired.mean():7.4f} {'':7s} {paired.min():7.4f} "
                f" {' '.join(f'{v:+.4f}' for v in paired)}"
            )
        for corruption in ("teacher_corrupted", "label_flipped"):
            for score in ("weight", "influence", "loss_teacher_ce", "loss_ce", "loss_kd"):
                found = [a[corruption][score] for a in areas[name].values() if score in a.get(corruption, {})]
                if found and name.startswith("rwkd"):
                    print(f"{f'  AUC {corruption} by {score}':52s} mean {np.mean(found):.3f} min {min(found):.3f}")
    for name in [n for n in scores if n.startswith("rwkd")]:
        if {"global", "oracle"} <= scores.keys():
            common = sorted(set(scores[name]) & set(scores["global"]) & set(scores["oracle"]))
            if common:
                mean = {n: np.mean([scores[n][s] for s in common]) for n in (name, "global", "oracle")}
                share = (mean[name] - mean["global"]) / (mean["oracle"] - mean["global"])
                print(f"gap closed by {name}: {share:.2f} (seeds {common})")


def setting(weighting: str, folder: Path) -> str:
    """The method's name, with what was overridden of its own config."""
    overrides = OmegaConf.load(folder / ".hydra" / "overrides.yaml")
    own = [str(o) for o in overrides if str(o).startswith(("weighting.", "meta.", "meta="))]
    return " ".join([weighting, *own])


if __name__ == "__main__":
    main()
