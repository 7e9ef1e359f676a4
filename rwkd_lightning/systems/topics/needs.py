"""The libraries that only topic models need, imported where they are used."""

from __future__ import annotations

import importlib
from typing import Any

from rwkd_lightning.utils.errors import UserError


def needed(module: str) -> Any:
    """The module, imported; UserError where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f'topic models need {module}, which cannot be imported ({error}); pip install "rwkd_lightning[topics]"'
        ) from error
