"""What can be known of a run before it reads any data: the last job of a sweep must not be the first to say it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from omegaconf import DictConfig

from rwkd_lightning.run.build import check_settings, check_terms, terms_of, trainer_of, weighting_of


def check_combination(config: DictConfig, task: str) -> None:
    """Build the method, the terms, the meta step and the Trainer of a resolved config, and check that they go together.

    Raises:
        UserError: for what a run would refuse by its config alone.
    """
    weighting, terms, _ = weighting_of(config), terms_of(config), trainer_of(config)
    spec: Any = SimpleNamespace(name=task, is_regression=bool(config.task.regression))
    weighting.check(tuple(term.name for term in terms), spec.is_regression)
    if config.task.regression is not None:
        check_terms(terms, config, spec)
    check_settings(config, weighting)
