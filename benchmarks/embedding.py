"""How much of a word table is lost at 5, 10 and 20 times fewer bytes: of MiniLM's, on tweets that gave no counts.

    python -m benchmarks.embedding

Counts are of the student's training texts. Errors are relative, √(Σ‖a − â‖²/Σ‖a‖²), over the tokens of the test texts
(special tokens out) and over all rows alike. Every method gets the same bytes, the words' places and the whole special
tokens counted. One table, one split: no spread.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir

from rwkd_lightning.systems.text.build import data_of
from rwkd_lightning.systems.text.compression.compress import compress
from rwkd_lightning.systems.text.compression.scores import frequency, tfidf
from rwkd_lightning.systems.text.data.task import table_of
from rwkd_lightning.systems.text.kinds.table import words_of
from rwkd_lightning.systems.text.models import load_tokenizer

CONF = Path(__file__).parents[1] / "conf"
KINDS = (
    ("svd", "frequency", False),
    ("one_block", "frequency", False),
    ("released", "frequency", False),
    ("blocks", "frequency", False),
    ("blocks", "frequency", True),
    ("blocks", "tfidf", False),
    ("blocks", "shuffled", False),
)


def main() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config")
    data, tokenizer = data_of(config), load_tokenizer(config.pair.student.path)
    table = words_of(config.pair.student.path).double().numpy()
    ids = {
        split: tokenizer(table_of(data.splits[split])["text"].to_pylist(), truncation=True, max_length=64)["input_ids"]
        for split in ("train", "test")
    }
    special = tokenizer.all_special_ids
    scores = {"frequency": frequency(ids["train"], len(table)), "tfidf": tfidf(ids["train"], len(table))}
    scores["shuffled"] = np.random.default_rng(0).permutation(scores["frequency"])
    tokens = frequency(ids["test"], len(table), base=0.0)
    tokens[special] = 0
    print(f"{'':<30}{'ratio':>6}{'test tokens':>13}{'all rows':>10}{'bytes':>12}{'seconds':>9}  ranks")
    for ratio in (5, 10, 20):
        for method, by, refine in KINDS:
            start = time.perf_counter()
            made = compress(table, scores[by], ratio, method, 5, special, refine)
            seconds = time.perf_counter() - start
            ranks = ", ".join(f"{len(b.words)}:{'whole' if b.maps is None else b.maps.shape[1]}" for b in made.blocks)
            name = f"{method}, {by}{', move' if refine else ''}"
            alike = np.ones(len(table))
            print(
                f"{name:<30}{ratio:>6}{made.error(table, tokens) ** 0.5:>13.3f}{made.error(table, alike) ** 0.5:>10.3f}"
                f"{made.bytes:>12,}{seconds:>9.1f}  {ranks}"
            )


if __name__ == "__main__":
    main()
