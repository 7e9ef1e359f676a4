"""Topic models side by side: ``python benchmarks/topics.py RUNS``, the folder that runs of task=topics were written to.

Teacher, plain student and every kind of distillation found there, mean and standard deviation over the seeds, and how
often a method beats the plain student of the same seed. ``--lda CORPUS ...`` adds LDA on the same training documents.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml

COLUMNS = ("npmi", "c_v", "diversity", "decoder_npmi", "decoder_c_v", "purity", "nmi")


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    sd = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{sd}"


def method_of(metrics: dict[str, Any]) -> str:
    """What a row is called; with the share of the steps that took a meta step, where any did."""
    if metrics["distillation"] == "none":
        return "student"
    cost = metrics["cost"]
    often = f", a meta step in {cost['meta_steps'] / cost['steps']:.0%}" if cost["meta_steps"] else ""
    return (
        f"{metrics['weighting']}, {metrics['distillation']}{' normalised' if metrics.get('normalised') else ''}{often}"
    )


Methods = dict[str, dict[int, dict[str, Any]]]  # by method, then by seed: scores and cost


def settings_of(config: Path) -> str:
    """What runs must share to be compared: α, the teacher's depth and the corruption."""
    made = yaml.safe_load(config.read_text())
    noise = made["data"].get("teacher_noise")
    return f"α = {made['alpha']}, {made['pair']['teacher']['layers']} layers" + (
        f", {noise:.0%} swapped" if noise else ""
    )


def read(runs: Path) -> dict[tuple[str, int, str], Methods]:
    """By corpus, K and settings; two runs of one method and seed among these are an error."""
    found: dict[tuple[str, int, str], Methods] = defaultdict(lambda: defaultdict(dict))
    for file in sorted(runs.rglob("metrics.json")):
        metrics = json.loads(file.read_text())
        if "topics" not in metrics:
            continue
        rows = found[metrics["corpus"], len(metrics["topics"]["student"]), settings_of(file.with_name("config.yaml"))]
        method, seed = method_of(metrics), metrics["seed"]
        if seed in rows[method]:
            raise SystemExit(f"{file.parent}: {method} with seed {seed} is there twice; move one elsewhere")
        for who, name in (("teacher", "teacher"), ("student", method)):
            cost = metrics["cost"]
            row = {
                **metrics[who]["train"],
                "test_perplexity": metrics[who].get("test", {}).get("perplexity"),
                "parameters": cost[f"{who}_parameters"],
            }
            row["seconds"] = cost["train_seconds"] if who == "student" else cost["teacher_seconds"]
            if who == "student" or row["seconds"] is not None or seed not in rows[name]:
                rows[name][seed] = row
    return found


def lda(corpora: list[str], topics: list[int], seeds: int) -> None:
    """Rows of LDA, trained and scored on the training documents of a run with the default split."""
    import torch

    from benchmarks.lda import lda_and_shares
    from rwkd_lightning.systems.topics.corpora import load_corpus
    from rwkd_lightning.systems.topics.corpus import split
    from rwkd_lightning.systems.topics.metrics import clustering, coherence, diversity, top_words

    for path in corpora:
        corpus = load_corpus(path)
        train = split(corpus, 0.05, 0.05, 0)["train"]
        for k in topics:
            rows: dict[str, list[float]] = defaultdict(list)
            for seed in range(seeds):
                start = time.perf_counter()
                beta, theta = lda_and_shares(corpus.counts[train], k, seed)
                rows["seconds"].append(time.perf_counter() - start)
                words = top_words(torch.as_tensor(beta), corpus.vocabulary)
                scores = coherence(words, [corpus.words[i] for i in train])
                scores |= {"diversity": diversity(words)}
                if corpus.labels is not None:
                    scores |= clustering(corpus.labels[train].tolist(), torch.as_tensor(theta))
                for name in COLUMNS:
                    if isinstance(scores.get(name), float):
                        rows[name].append(scores[name])
            print(
                f"| LDA on {corpus.name}, K = {k} ({seeds}) | "
                + " | ".join(spread(rows[name]) if rows[name] else "" for name in COLUMNS)
                + f" | | {spread(rows['seconds'])} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("runs", type=Path, nargs="?")
    parser.add_argument("--lda", nargs="+", default=[], help="corpora")
    parser.add_argument("--topics", nargs="+", type=int, default=[10])
    parser.add_argument("--seeds", type=int, default=3, help="of LDA")
    options = parser.parse_args()
    for (corpus, k, settings), methods in sorted(read(options.runs).items()) if options.runs else []:
        print(
            f"\n{corpus}, K = {k}, {settings}\n\n"
            f"| method (seeds) | {' | '.join(COLUMNS)} | test perplexity | parameters | seconds |"
        )
        print("|---" * (len(COLUMNS) + 4) + "|")
        for name, by_seed in methods.items():
            rows = list(by_seed.values())
            cells = [spread([row[c] for row in rows]) if all(c in row for row in rows) else "" for c in COLUMNS]
            perplexity = [row["test_perplexity"] for row in rows if row["test_perplexity"] is not None]
            seconds = [row["seconds"] for row in rows if row["seconds"] is not None]
            print(
                f"| {name} ({len(rows)}) | {' | '.join(cells)} | {statistics.mean(perplexity):.0f} | "
                f"{rows[0]['parameters']:,} | {f'{statistics.mean(seconds):.0f}' if seconds else ''} |"
            )
        plain = methods.get("student", {})
        for name, by_seed in methods.items():
            shared = sorted(by_seed.keys() & plain.keys())
            if name != "student" and shared:
                gains = {c: [by_seed[s][c] - plain[s][c] for s in shared] for c in ("npmi", "c_v", "decoder_npmi")}
                print(
                    f"{name} minus the plain student, {len(shared)} seeds: "
                    + "; ".join(
                        f"{c} {spread(values)}, above in {sum(v > 0 for v in values)}" for c, values in gains.items()
                    )
                )
    lda(options.lda, options.topics, options.seeds)


if __name__ == "__main__":
    main()
