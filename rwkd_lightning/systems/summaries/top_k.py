"""What the teacher says of each token of the targets: its likeliest tokens and the mass of the others, kept on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from safetensors.torch import save_file
from torch import Tensor

from rwkd_lightning.cache.store import Store, digest, tensors
from rwkd_lightning.meta.restriction import to_device
from rwkd_lightning.run.identity import keyed, only
from rwkd_lightning.run.system import Teacher
from rwkd_lightning.systems.summaries.datamodule import NEEDED, SummaryDataModule
from rwkd_lightning.systems.summaries.summariser import Summariser
from rwkd_lightning.systems.summaries.teacher import load
from rwkd_lightning.utils import bars
from rwkd_lightning.utils.model_files import fingerprint

TAUGHT = (
    *(f"pair.teacher.{key}" for key in ("dropout", "passes", "top_k", "seed", "precision")),
    "temperature",
    "data.eval_batch_size",
    "trainer.deterministic",
)
"""Keys that the teacher's answers depend on, beside the content of the teacher and the tokens of its texts."""
NAMES = ("top", "top_ids", "rest", "gold", "entropy", "disagreement")


def answers(
    config: DictConfig, teacher: Teacher, loaders: SummaryDataModule, store: Store, device: torch.device
) -> dict[str, dict[str, Tensor]]:
    """By split, all tokens one after the other: ``top`` ``(tokens, k)``, log-probabilities at the run's temperature,
    and ``top_ids``; ``rest``, the logarithm of the others' mass; ``gold``, that of the target's probability at T = 1;
    ``entropy`` and ``disagreement``; ``(tokens,)`` each, see `averaged`. From the cache, or computed now.
    """
    rows = {name: loaders.rows(name) for name in NEEDED}
    key = {
        "teacher": fingerprint(teacher.folder),
        "settings": keyed(config, TAUGHT),
        "tokens": {
            name: digest([text_digest(pairs.documents), text_digest(pairs.targets)]) for name, pairs in rows.items()
        },
    }

    def build(folder: Path) -> None:
        settings = only(config, TAUGHT)
        spec = settings.pair.teacher
        summariser, _ = load(teacher, spec.dropout if spec.passes else None)
        with torch.random.fork_rng(devices=[] if device.type == "cpu" else None):
            torch.manual_seed(spec.seed)
            found = {
                f"{name}.{column}": values
                for name in NEEDED
                for column, values in of_split(settings, summariser, loaders, name, device).items()
            }
        save_file(found, folder / "tokens.safetensors")

    kept = store.get("teacher_tokens", key, build, about=f"summaries: {teacher.folder.name}")
    sizes = {name: int(pairs.sizes.sum()) for name, pairs in rows.items()}
    shapes: dict[str, Sequence[int | None]] = {
        f"{name}.{column}": (size, None) if column.startswith("top") else (size,)
        for name, size in sizes.items()
        for column in NAMES
    }
    read = tensors(kept / "tokens.safetensors", shapes)
    found = {name: {column: read[f"{name}.{column}"] for column in NAMES} for name in NEEDED}
    for columns in found.values():
        columns["top_ids"] = columns["top_ids"].int()  # torch takes no rows out of a tensor of 16 bits without a sign
    return found


def text_digest(rows: Sequence[np.ndarray]) -> str:
    """A digest of rows of tokens."""
    return digest([row.tolist() for row in rows])


def of_split(
    settings: DictConfig, summariser: Summariser, loaders: SummaryDataModule, split: str, device: torch.device
) -> dict[str, Tensor]:
    """The columns of a split."""
    spec, pairs = settings.pair.teacher, loaders.rows(split)
    columns: dict[str, Tensor] = {}
    summariser.to(device).train(spec.passes > 0)
    for batch in bars.over(loaders.dataloader(split), f"teacher: {split}"):
        there = to_device(batch, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=str(spec.precision).startswith("bf16")):
            found = averaged(summariser, there, max(1, spec.passes), spec.top_k, settings.temperature)
        begins, read = pairs.begins[batch["index"]], batch["labels"] >= 0
        places = (begins[:, None] + torch.arange(read.shape[1]))[read]
        for name, values in found.items():
            values = values.cpu()
            values = values.half() if values.is_floating_point() else values.int()
            if name not in columns:
                columns[name] = values.new_zeros((int(pairs.sizes.sum()), *values.shape[1:]))
            columns[name][places] = values
    summariser.eval()
    if len(loaders.tokenizer) <= 2**16:
        columns["top_ids"] = columns["top_ids"].to(torch.uint16)
    return columns


@torch.no_grad()
def averaged(
    summariser: Summariser, batch: Mapping[str, Tensor], passes: int, k: int, temperature: float
) -> dict[str, Tensor]:
    """The mean q̄ of n passes for the tokens of a batch, those of each row after those of the row before, in whatever
    mode the model is.

    KL to the student is linear in q but for its entropy, so the gradient of KL(q̄ ‖ p) is the mean over passes of that
    of KL(q_j ‖ p). The columns are those of `answers`; ``disagreement`` is H(q̄) − (1/n)·Σ_j H(q_j), the mean divergence
    of a pass from q̄, 0 where all passes agree.
    """
    read = batch["labels"] >= 0
    labels = batch["labels"][read][:, None]
    mean = gold = entropy = torch.zeros((), device=labels.device)
    for _ in range(passes):
        logits = summariser(batch)["logits"][read].float()  # the padding is most of a batch
        log_q = (logits / temperature).log_softmax(-1)
        q = log_q.exp()
        entropy = entropy - (q * log_q).sum(-1) / passes
        mean = mean + q / passes
        gold = gold + (logits.gather(-1, labels)[:, 0] - logits.logsumexp(-1)).exp() / passes
    k = min(k, mean.shape[-1])
    top, ids = mean.topk(k, dim=-1)
    of_mean = -torch.xlogy(mean, mean).sum(-1)
    rest = mean.scatter(-1, ids, 0.0).sum(-1).log() if k < mean.shape[-1] else torch.full_like(gold, -torch.inf)
    return {
        "top": top.log(),
        "top_ids": ids,
        "rest": rest,
        "gold": gold.log(),
        "entropy": of_mean,
        "disagreement": (of_mean - entropy).clamp_min(0),
    }
