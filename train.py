"""Distil a student: ``python train.py task=mrpc weighting=rwkd``. Everything is in ``conf/`` and ``rwkd_lightning/``."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf


def config_digest(*, _root_: DictConfig) -> str:
    """Short digest of all that a run's result depends on, for the name of its folder."""
    relevant = OmegaConf.masked_copy(_root_, [str(k) for k in _root_ if k not in IRRELEVANT])
    plain: Any = OmegaConf.to_container(relevant, resolve=True)
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8]


IRRELEVANT = ("hydra", "force", "cache_dir", "runs_dir", "weighting_name")
OmegaConf.register_new_resolver("config_digest", config_digest)


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> None:
    """Run, and tell a user's mistake in one line."""
    from rwkd_lightning.errors import UserError
    from rwkd_lightning.pipeline.run import run

    try:
        run(config, Path(HydraConfig.get().runtime.output_dir))
    except UserError as error:
        raise CompactHydraException(str(error)) from error


if __name__ == "__main__":
    main()
