"""The libraries that only topic models need, imported where they are used."""

from __future__ import annotations

import importlib
from typing import Any

from rwkd_lightning.errors import UserError


def needed(module: str) -> Any:
    """The imported module.

    Raises:
        UserError: where it, or something it imports, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as missing:
        raise UserError(f"topic models need the module {module!r}, and {missing.name!r} is not installed: "
                        'pip install "rwkd_lightning[topics]"') from missing
