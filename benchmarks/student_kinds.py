"""How fast students that are no transformers answer, beside the transformer they learn from, and how large they are.

    python -m benchmarks.student_kinds [--threads 1 --rows 32 --tokens 24 --turns 9]

Random tokens of one length, no padding, random weights: speed does not depend on them. MiniLM's sizes (six blocks and
three of 384, a table of 30,522 words). All are timed in one run and in turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification

from rwkd_lightning.systems.text.kinds import KINDS

SIZES = {
    "bilstm": {"hidden_size": 512, "num_hidden_layers": 2},
    "cnn": {"hidden_size": 256, "num_hidden_layers": 4},
    "static": {"hidden_size": 384},
}


def networks() -> dict[str, Any]:
    """By name; the teacher first."""
    made: dict[str, Any] = {}
    for blocks in (6, 3):
        config = BertConfig(
            hidden_size=384, num_hidden_layers=blocks, num_attention_heads=12, intermediate_size=1536, num_labels=3
        )
        made[f"MiniLM, {blocks} blocks"] = BertForSequenceClassification(config)
    for name, kind in KINDS.items():
        made[name] = kind(kind.config_class(embedding_size=384, num_labels=3, **SIZES[name]))
    return {name: network.eval() for name, network in made.items()}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("threads", 1), ("rows", 32), ("tokens", 24), ("turns", 9)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    ids = torch.randint(1, 30000, (given.rows, given.tokens), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    made = networks()
    found: dict[str, list[float]] = {name: [] for name in made}
    for turn in range(given.turns + 1):  # the first is not counted
        for name, network in made.items():
            start, times = time.perf_counter(), 0
            while time.perf_counter() - start < 0.3:
                network(input_ids=ids, attention_mask=mask)
                times += 1
            if turn:
                found[name].append(times * given.rows / (time.perf_counter() - start))
    slowest = found[next(iter(found))]
    print(f"{given.threads} threads, batches of {given.rows} texts of {given.tokens} tokens")
    print(f"{'':<18}{'above the table':>17}{'texts a second':>16}{'of the teacher':>16}{'(spread)':>16}")
    for name, network in made.items():
        table = network.get_input_embeddings().weight.numel()
        ratios = sorted(x / y for x, y in zip(found[name], slowest, strict=True))
        print(
            f"{name:<18}{(network.num_parameters() - table) / 1e6:>15.2f} M{statistics.median(found[name]):>16.0f}"
            f"{statistics.median(ratios):>14.1f} x{f'{ratios[0]:.1f} to {ratios[-1]:.1f}':>16}"
        )


if __name__ == "__main__":
    main()
