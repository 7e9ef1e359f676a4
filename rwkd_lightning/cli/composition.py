"""The configs of a command line: Hydra reads the files once per choice of options; values go onto a copy."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from rwkd_lightning.cli.kinds import first_line
from rwkd_lightning.utils.errors import UserError


class Composed(NamedTuple):
    """A config without the values of the command line, nothing resolved, and the options that were chosen for it."""

    config: DictConfig
    plain: dict[str, Any]  # without the group hydra, as all that follows
    choices: dict[str, str]
    kept: bytes
    hydra: Any  # what `HydraConfig` holds

    def put(self, values: Sequence[Override], hydra: bool = False) -> DictConfig:
        """A copy with these values, as Hydra sets them.

        Args:
            hydra: with the group hydra, which takes longer.

        Raises:
            UserError: if one of the values cannot stand there.
        """
        config: DictConfig = pickle.loads(
            pickle.dumps(self.config) if hydra else self.kept
        )  # ten times as fast as a deepcopy
        for override in values:
            with told():
                OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        return config

    @contextmanager
    def known(self) -> Iterator[None]:
        """Let ``${hydra:...}`` be read from this config."""
        with known_to_hydra(None):
            HydraConfig.instance().cfg = self.hydra
            yield


class Configs:
    """All configs of a command line; to be used within ``hydra.initialize_config_dir``.

    Args:
        more: a folder of configs beside ``conf``, as ``--config-dir`` names.
    """

    def __init__(self, conf: Path, more: Path | None = None) -> None:
        self.conf = conf
        self.folders = [conf] if more is None else [conf, more]
        self.search = [] if more is None else [f"hydra.searchpath=['file://{more.resolve()}']"]
        self.kept: dict[tuple[str, ...], Composed] = {}

    def is_choice(self, override: Override) -> bool:
        """Whether Hydra reads files for it; what is added or deleted is left to Hydra too."""
        key = override.key_or_group
        group = key.startswith("hydra") or any((folder / key).is_dir() for folder in self.folders)
        return (
            override.package is not None
            or override.is_add()
            or override.is_force_add()
            or override.is_delete()
            or (group and not isinstance(override.value(), dict))
        )

    def composed(self, lines: Sequence[str]) -> Composed:
        """The config of these choices.

        Raises:
            UserError: if Hydra cannot compose it.
        """
        if tuple(lines) not in self.kept:
            with told():
                config = compose("config", [*self.search, *lines], return_hydra_config=True)
                plain: Any = OmegaConf.to_container(config, resolve=False)
                kept = pickle.dumps(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))
            choices = plain.pop("hydra")["runtime"]["choices"]
            with known_to_hydra(config):
                self.kept[tuple(lines)] = Composed(config, plain, choices, kept, HydraConfig.instance().cfg)
        return self.kept[tuple(lines)]


@contextmanager
def told() -> Iterator[None]:
    """Tell in one line whatever Hydra and OmegaConf raise for what does not go together."""
    try:
        yield
    except Exception as error:
        raise UserError(
            f"the command line does not go with the configs ({first_line(error)}); python train.py --help shows "
            "what does"
        ) from error


@contextmanager
def known_to_hydra(config: DictConfig | None) -> Iterator[None]:
    """Let ``${hydra:...}`` be read from this config."""
    hydra = HydraConfig.instance()
    before = hydra.cfg
    if config is not None:
        hydra.set_config(config)
    try:
        yield
    finally:
        hydra.cfg = before
