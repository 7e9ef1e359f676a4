"""The config that a command line makes, composed and resolved before Hydra does it: its values, and the folder of its run.

A name in the folder's path (of a task, a method, a seed) must not lead out of ``runs_dir``; where that is, and
``hydra.run.dir`` in its place, is the user's own choice.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from rwkd_lightning.cli import schema as values
from rwkd_lightning.cli import tuning
from rwkd_lightning.cli.keys import interpolated
from rwkd_lightning.cli.kinds import GROUP, PATH, check_value, first_line
from rwkd_lightning.cli.sweeps import expanded, of_interval
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.paths import place

DIGEST = "${config_digest:}"  # a resolver of train.py


def check(overrides: Sequence[Override], conf: Path, sweep: bool = False) -> None:
    """Check the config of a run; of a sweep that of its first job, and each value that is swept on its own.

    Raises:
        UserError: if Hydra cannot compose it, for a value of another type or out of range, for a folder that cannot be.
    """
    jobs = [(list(expanded(override, conf)) if sweep else []) or [override] for override in overrides]
    intervals = contextlib.ExitStack()
    for override in overrides:
        intervals.enter_context(of_interval(override))
    with intervals, initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        try:
            config = compose("config", [several[0].input_line or "" for several in jobs], return_hydra_config=True)
        except Exception as error:  # whatever Hydra and OmegaConf raise for what does not go together
            raise UserError(f"the command line does not go with the configs ({first_line(error)}); "
                            "python train.py --help shows what does") from error
        with known_to_hydra(config):
            values.check(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))
            own = any((override.key_or_group or "").startswith("hydra") for override in overrides)
            check_folder(config, own)
            schema = values.schema_of(config.task)
        for override, several in zip(overrides, jobs, strict=True):
            for single in several[1:]:
                key, value = single.key_or_group, None if single.is_delete() else plain(single.value())
                kind = values.kind_of(key, schema)
                if not (single.is_delete() or isinstance(value, dict) or interpolated(value) or kind is GROUP):
                    with of_interval(override):
                        check_value(key, value, kind)
        if sweep:
            tuning.check_sweeper(config.hydra.sweeper, overrides, conf)


def plain(value: Any) -> Any:
    """What Hydra's parser read, without the quotes that it remembers."""
    if isinstance(value, dict):
        return {plain(key): plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list) else getattr(value, "text", value)


@contextmanager
def known_to_hydra(config: DictConfig) -> Iterator[None]:
    """Let ``${hydra:...}`` be read from this config."""
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)
    try:
        yield
    finally:
        HydraConfig.instance().cfg = before


def check_folder(config: DictConfig, own: bool) -> None:
    """Check the run's folder; ``own``: the user has given it."""
    root = place(config.runs_dir, "runs_dir")
    if str(config.runs_dir).startswith("~"):
        raise UserError(f"runs_dir={config.runs_dir} starts with ~, which Hydra takes for a folder's name; write {root}")
    for key, inside in (("run.dir", ""), ("sweep.dir", ""), ("sweep.subdir", root)):
        text: Any = OmegaConf.to_container(config.hydra, resolve=False)
        for part in key.split("."):
            text = text[part] if isinstance(text, dict) and part in text else None
        if not isinstance(text, str) or not text:
            raise UserError(f"hydra.{key} is {text}; give a directory")
        with read_write(config.hydra), open_dict(config.hydra):
            OmegaConf.update(config, f"hydra.{key}", text.replace(DIGEST, "0" * 8), force_add=True)
        try:
            folder = str(OmegaConf.select(config, f"hydra.{key}"))
        except Exception as error:
            raise UserError(f"hydra.{key}={text} cannot be resolved ({first_line(error)}); give a directory") from error
        check_value(f"hydra.{key}", folder, PATH)
        whole = os.path.normpath(place(os.path.join(inside, folder), f"hydra.{key}"))
        if not own and Path(os.path.normpath(root)) not in (Path(whole), *Path(whole).parents):
            raise UserError(f"the run's folder {whole!r} would lie outside runs_dir={str(root)!r}, led there by a name in "
                            f"hydra.{key}={text}; give another name, or another runs_dir")
