"""Distil a student: ``python train.py task=mrpc weighting=rwkd``. Everything is in ``conf/`` and
``rwkd_lightning/``.
"""

# ruff: noqa: E402 (--help comes before the imports that take longer than the answer)

from __future__ import annotations

import sys
from pathlib import Path

from rwkd_lightning.cli import help as usage

CONF = Path(__file__).parent / "conf"

if __name__ == "__main__" and usage.asked_for(sys.argv[1:]):
    print(usage.text(CONF))
    sys.exit()

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from rwkd_lightning.cli import overrides, tuning
from rwkd_lightning.run import slurm
from rwkd_lightning.run.identity import run_digest
from rwkd_lightning.run.messages import ours_only
from rwkd_lightning.utils.errors import Pruned, UserError


def config_digest(*, _root_: DictConfig) -> str:
    """As `identity.run_digest`, for the folders that Hydra names."""
    return run_digest(_root_)


OmegaConf.register_new_resolver("config_digest", config_digest)


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> float | None:
    """Run, and tell a user's mistake in one line; returns the student's score on the meta split, for a sweeper that
    searches.
    """
    from rwkd_lightning.run.runner import run

    ours_only(HydraConfig.get().verbose)
    if (
        HydraConfig.get().mode == RunMode.MULTIRUN
    ):  # a process that Lightning starts beside this one is to do this job alone
        sys.argv[1:] = HydraConfig.get().overrides.task
    try:
        with slurm.together():
            folder = Path(HydraConfig.get().runtime.output_dir)
            return tuning.objective(run(config, folder), folder, HydraConfig.get().sweeper._target_)
    except Pruned as pruned:
        print(f"#{HydraConfig.get().job.num} {pruned}")
        return pruned.score
    except UserError as error:
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            sys.exit(str(error))
        # the other jobs go on; Hydra tells of one failed job only, after the last one has ended
        print(f"#{HydraConfig.get().job.num} failed: {error}", file=sys.stderr, flush=True)
        raise CompactHydraException(str(error)) from error


if __name__ == "__main__":
    sys.argv[1:] = overrides.written_out(sys.argv[1:])
    try:
        overrides.check(sys.argv[1:], CONF)
        slurm.check(sys.argv[1:], CONF)
    except UserError as error:
        sys.exit(str(error))
    main()
