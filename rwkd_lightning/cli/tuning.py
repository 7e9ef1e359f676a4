"""Sweepers that search, as Optuna's: what a command line with one must say, and the score that a run returns."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Glob, Override
from hydra.core.plugins import Plugins
from omegaconf import DictConfig, OmegaConf

from rwkd_lightning.cli.sweeps import expanded
from rwkd_lightning.utils.errors import UserError

PACKAGES = ("ax", "nevergrad", "optuna")
MAXIMISE = {"direction": "maximize", "optim.maximize": True, "ax_config.experiment.minimize": False}
"""The settings by which Optuna, Nevergrad and Ax maximise; each minimises by default."""
REMEMBER = "rwkd_lightning.run.pruning.remember"
"""Optuna's sweeper passes each trial to this function; ``callbacks=pruning`` needs it."""


def prepare(overrides: Sequence[Override], sweep: bool) -> None:
    """Check the sweeper that is chosen, before Hydra looks for its configs, and let a larger score be its default aim.

    Raises:
        UserError: for one without a sweep, or without its package.
    """
    for override in overrides:
        name: Any = override.value() if override.key_or_group == "hydra/sweeper" else None
        if name is None:
            continue
        if not sweep:
            raise UserError(f"hydra/sweeper={name} is for sweeps and would do nothing here: put -m first")
        if name in PACKAGES and not installed(f"hydra_plugins.hydra_{name}_sweeper"):
            raise UserError(f"hydra/sweeper={name} needs Hydra's plugin for it: pip install hydra-{name}-sweeper")
        if name in PACKAGES:
            maximise(name)


def maximise(name: str) -> None:
    """Change the default of a plugin's config; what the command line or a config says goes before it."""
    Plugins.instance()  # registers the plugins' configs
    store = ConfigStore.instance()
    kept = store.load(f"hydra/sweeper/{name}.yaml")
    for key, wanted in MAXIMISE.items():
        if OmegaConf.select(kept.node, key) is not None:
            OmegaConf.update(kept.node, key, wanted)
    if name == "optuna":
        OmegaConf.update(kept.node, "custom_search_space", REMEMBER)
    store.store(name, kept.node, "hydra/sweeper", provider=kept.provider)


def installed(module: str) -> bool:
    """Whether there is such a module, in a package that may not be there either."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def searches(sweeper: str) -> bool:
    """Whether a class of sweepers chooses its jobs by their scores; Hydra's own runs a list of them."""
    Plugins.instance()
    return sweeper != str(ConfigStore.instance().load("hydra/sweeper/basic.yaml").node.get("_target_"))


def check_sweeper(sweeper: DictConfig, overrides: Sequence[Override], conf: Path) -> None:
    """Check a sweeper's settings, and that it can take what is swept.

    Raises:
        UserError: for one that would look for the smallest score, and for sweeps that it would answer with a traceback.
    """
    target = str(sweeper.get("_target_"))
    search = searches(target)
    names = [override.key_or_group for override in overrides]
    for override in overrides:
        if search and override.is_sweep_override() and names.count(override.key_or_group) > 1:
            raise UserError(
                f"{override.input_line}: {override.key_or_group} is given twice, and a search may take the fixed "
                "value; give it once"
            )
        if not search and override.is_interval_sweep():
            raise UserError(
                f"{override.input_line}: Hydra's own sweeper cannot try an interval; add hydra/sweeper=optuna, "
                f"or write {override.key_or_group}=A,B,C"
            )
        if ".hydra_optuna_sweeper." in target and override.is_choice_sweep():
            values = [single.value() for single in expanded(override, conf)]
            if any(isinstance(value, list | dict) for value in values):
                raise UserError(
                    f"{override.input_line}: Optuna chooses among texts and numbers, not among lists; run one sweep "
                    "for each list"
                )
            if isinstance(override.value(), Glob):
                raise UserError(
                    f"{override.input_line}: Optuna takes no glob; write {override.get_key_element()}="
                    f"{','.join(map(str, values))}"
                )
    for key, wanted in MAXIMISE.items():
        given = OmegaConf.select(sweeper, key)
        given = getattr(given, "name", given)
        if given is not None and given != wanted:
            raise UserError(
                f"hydra.sweeper.{key}={given} would look for the worst student, or for several scores: a run returns "
                f"one, which is larger for a better student; write hydra.sweeper.{key}={str(wanted).lower()}"
            )


def objective(result: Mapping[str, Any], folder: Path, sweeper: str) -> float | None:
    """The student's score on the meta split, larger is better, for a sweeper; -inf where it is not defined.

    The test split has no part in it. None for a process that only trains along, and for a run of an earlier version.

    Args:
        result: what the run has returned.
        folder: its folder.
        sweeper: the class of the sweeper; one that searches cannot do without a score.

    Raises:
        UserError: for such a sweeper, where the run has none.
    """
    scores = list(result.get("meta", {}).values())
    if not scores:
        if result and searches(sweeper):
            raise UserError(
                f"the run in {folder} was finished before scores on the meta split were kept; add force=true"
            )
        return None
    return -math.inf if scores[0] is None or math.isnan(scores[0]) else float(scores[0])
