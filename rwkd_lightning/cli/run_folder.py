"""The folder of a run, as its config names it before it is made.

A name in the folder's path (of a task, a method, a seed) must not lead out of ``runs_dir``; where that is, and
``hydra.run.dir`` in its place, is the user's own choice.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from rwkd_lightning.cli.kinds import PATH, check_value, first_line
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.paths import place

DIGEST = "${config_digest:}"  # a resolver of train.py


def check_folder(config: DictConfig, own: bool) -> None:
    """Check the run's folder; ``own``: the user has given it."""
    root = place(config.runs_dir, "runs_dir")
    if str(config.runs_dir).startswith("~"):
        raise UserError(
            f"runs_dir={config.runs_dir} starts with ~, which Hydra takes for a folder's name; write {root}"
        )
    for group, name, inside in (("run", "dir", ""), ("sweep", "dir", ""), ("sweep", "subdir", root)):
        key, node = f"{group}.{name}", config.hydra.get(group)
        plain: Any = OmegaConf.to_container(node, resolve=False) if isinstance(node, DictConfig) else {}
        text = plain.get(name)
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
            raise UserError(
                f"the run's folder {whole!r} would lie outside runs_dir={str(root)!r}, led there by a name in "
                f"hydra.{key}={text}; give another name, or another runs_dir"
            )
