"""Do short runs still give the same numbers? Records every score, weight, loss and logged value, and compares them to
the digit.

    python -m benchmarks.behaviour record before.json     # then change the code
    python -m benchmarks.behaviour compare before.json    # exits with 1 and names what differs

Tiny random models on the CPU, one thread, about a minute. Numbers are those of one machine: record and compare on the
same one.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).parents[1]
NOISE = ["data.label_noise=0.4", "data.teacher_noise=0.4"]
TEXT = {
    "kd": ["weighting=kd"],
    "rwkd": ["weighting=rwkd", *NOISE],
    "rwkd on all": ["weighting=rwkd", "meta=all", *NOISE],
    "rwkd, lookahead": ["weighting=rwkd", "meta=all", "meta.lookahead_lr=1e-3", "meta/engine=unrolled"],
    "three terms": ["weighting=rwkd", "meta=all", "terms=[ce,kd,hidden]"],
    "accumulated": ["weighting=rwkd", "data.batch_size=4", "trainer.accumulate=4"],
    "float64": ["weighting=rwkd", "trainer.precision=64-true"],
    "best": ["weighting=mwn", "trainer.select=best"],
}
TOPICS = {"topics, kd": ["weighting=kd"], "topics, rwkd": ["weighting=rwkd"]}


def commands(folder: Path) -> dict[str, list[str]]:
    """The arguments of each run, for train.py."""
    from tests.run.tiny import overrides, write_backbone, write_tweets
    from tests.systems.topics.conftest import write_encoder, write_octis

    backbone, encoder, octis = folder / "backbone", folder / "encoder", folder / "octis"
    octis.mkdir()
    write_octis(octis)
    write_encoder(encoder)
    text = [
        *overrides(write_tweets(folder / "tweets.csv"), write_backbone(backbone), folder),
        "trainer.log_every_n_steps=1",
    ]
    topics = [
        "task=topics",
        f"data.path={octis}",
        f"pair.teacher.encoder={encoder}",
        f"pair.student.encoder={encoder}",
        "task.topics=3",
        "alpha=0.5",
        "temperature=2.0",
        "pair.teacher.layers=1",
        "pair.teacher.epochs=2",
        "trainer.max_epochs=2",
        "data.batch_size=16",
        "meta.batch_size=4",
        "meta.every=1",
        "trainer.log_every_n_steps=1",
        "trainer.accelerator=cpu",
        "data.meta_fraction=0.1",
        "data.test_fraction=0.1",
        f"cache_dir={folder / 'cache'}",
        f"runs_dir={folder / 'runs'}",
    ]
    return {
        **{name: [*text, *more] for name, more in TEXT.items()},
        **{name: [*topics, *more] for name, more in TOPICS.items()},
    }


def record() -> dict[str, Any]:
    """The numbers of all runs."""
    found = {}
    with tempfile.TemporaryDirectory() as name:
        for run, arguments in commands(Path(name)).items():
            where = Path(name) / "run" / run.replace(" ", "-").replace(",", "")
            done = subprocess.run(
                [sys.executable, "train.py", *arguments, f"hydra.run.dir={where}"],
                cwd=ROOT,
                text=True,
                capture_output=True,
            )
            if done.returncode:
                sys.exit(f"{run}: {done.stderr[-3000:]}")
            found[run] = numbers(where)
            print(run, flush=True)
    return found


def numbers(folder: Path) -> dict[str, Any]:
    """The scores, the digest of the student, every logged value, and a digest of each column of the weights."""
    import pyarrow.parquet

    metrics = json.loads((folder / "metrics.json").read_text())
    steps = {name: metrics["cost"][name] for name in ("steps", "meta_steps")}
    table = pyarrow.parquet.read_table(folder / "weights.parquet")
    columns = {name: digest(json.dumps(table[name].to_pylist()).encode()) for name in table.column_names}
    return {
        "scores": {who: metrics[who] for who in ("student", "teacher")},
        "corruption": metrics.get("corruption"),
        "steps": steps,
        "student": digest((folder / "student/model.safetensors").read_bytes()),
        "columns": columns,
        "log": (folder / "log/metrics.csv").read_text().splitlines(),
    }


def digest(content: bytes) -> str:
    """The first digits of its SHA-256."""
    return hashlib.sha256(content).hexdigest()[:16]


def differences(before: Any, now: Any, where: str = "") -> list[str]:
    """Every place in which two records differ; columns that are new are none."""
    if isinstance(before, dict) and isinstance(now, dict):
        return [line for name in before for line in differences(before[name], now.get(name), f"{where}/{name}")]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return [
            line for i, (a, b) in enumerate(zip(before, now, strict=True)) for line in differences(a, b, f"{where}/{i}")
        ]
    return [] if before == now else [f"{where}: {before} -> {now}"]


def main(action: str, path: str) -> None:
    """Record, or compare with a record."""
    if action == "record":
        Path(path).write_text(json.dumps(record(), indent=1))
        return
    found = differences(json.loads(Path(path).read_text()), record())
    print("\n".join(found) or "the same to the digit")
    sys.exit(bool(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
