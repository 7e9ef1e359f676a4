"""The checks of a run that need no data: the last job of a sweep must not be the first to fail them."""

from __future__ import annotations

from omegaconf import DictConfig

from rwkd_lightning.run.build import check_settings, check_terms, system_of, terms_of, trainer_of, weighting_of


def check_combination(config: DictConfig, task: str) -> None:
    """Build the method, the terms, the meta step and the Trainer of a resolved config, and check that they go together.

    Raises:
        UserError: for what a run would refuse by its config alone.
    """
    trainer_of(config)
    weighting, terms = weighting_of(config), terms_of(config)
    system = system_of(config)
    check_terms(terms, config, system.provides, weighting, task)
    check_settings(config, weighting)
