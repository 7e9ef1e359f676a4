"""The one rule for identity: the keys of the config that belong to the key of each thing kept (docs/identity.md).

A stage whose result is cached is given the config that `only` leaves: nothing but the keys that are in its cache key,
so that no other setting can reach it. Data and models enter the keys by their content, never by their path.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

VERSION = 2
"""Of the trained teachers and what is computed from them: a higher one leaves everything cached before unused."""

NO_RESULT = (
    "hydra",
    "force",
    "cache_dir",
    "runs_dir",
    "weighting_name",
    "checkpoint",
    "data.num_workers",
    "logger",
    *(
        f"trainer.{name}"
        for name in ("enable_progress_bar", "profiler", "logger", "enable_checkpointing", "enable_model_summary")
    ),
)
"""Keys, and groups of keys, that change no byte of a result, and so belong to no key and to no run's folder."""
ADDED = ("data.stride",)
"""Keys younger than the caches: one without a value is left out, so that what was kept before it is still found."""
ADDED_TO_RUNS: dict[str, dict[str, Any]] = {
    "trainer": {"matmul": "highest", "compile": False},
    "pair.student": {"kind": None, "table": "teacher", "embedding": None},
}
"""Keys younger than the runs: one that says what all runs did before is left out, so that these are still found."""
DISPLAY_ONLY = (
    "rwkd_lightning.run.callbacks.ModelSummary",
    "rwkd_lightning.run.pruning.Pruning",
    "lightning.pytorch.callbacks.LearningRateMonitor",
)
"""Callbacks of which the same holds; pruning finishes a run as without it, or not at all."""
ALL_TRAININGS = ("accelerator", "deterministic")
"""Options of lightning.Trainer that hold for the teacher's training too; all others are the student's alone."""


def only(config: DictConfig, keys: Sequence[str]) -> DictConfig:
    """A config with these keys and no other, resolved; reading another one raises.

    A key that the config lacks, as an optional one of the Trainer, is None.
    """
    part = OmegaConf.create({})
    for key in keys:
        OmegaConf.update(part, key, OmegaConf.select(config, key))
    OmegaConf.set_struct(part, True)
    return part


def keyed(config: DictConfig, keys: Sequence[str]) -> dict[str, Any]:
    """The values that `only` leaves, by dotted name, with the kind of device that computes: part of a cache's key."""
    part = only(config, keys)
    found = {key: OmegaConf.select(part, key) for key in keys}
    found = {key: value for key, value in found.items() if value is not None or key not in ADDED}
    plain = {
        key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value for key, value in found.items()
    }
    return {"version": VERSION, "device": device_kind(str(config.trainer.accelerator)), **plain}


def device_kind(accelerator: str) -> str:
    """``cpu``, ``cuda`` or ``mps``: what ``trainer.accelerator`` stands for on this machine."""
    if accelerator not in ("auto", "gpu"):
        return accelerator
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def run_digest(config: DictConfig) -> str:
    """Eight hexadecimal digits of every key that a run's result may depend on, for the name of its folder."""
    kept = OmegaConf.masked_copy(config, [str(key) for key in config if key not in NO_RESULT])
    plain: Any = OmegaConf.to_container(kept, resolve=True)
    for key in NO_RESULT:
        group, _, name = key.partition(".")
        if name:
            plain.get(group, {}).pop(name, None)
    for group, values in ADDED_TO_RUNS.items():
        inside = functools.reduce(dict.__getitem__, group.split("."), plain)
        for name, before in values.items():
            if name in inside and inside[name] == before:
                del inside[name]
    used = {*plain["terms"], *(name for terms in plain["task"]["meta_terms"].values() for name in terms)}
    used |= {str(name).rpartition(".")[0] for name in used}  # a part of a term
    plain["loss_terms"] = {name: term for name, term in plain["loss_terms"].items() if name in used}
    plain["callbacks"] = {
        name: callback
        for name, callback in plain["callbacks"].items()
        if not isinstance(callback, dict) or callback.get("_target_") not in DISPLAY_ONLY
    }
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8]
