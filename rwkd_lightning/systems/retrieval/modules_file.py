"""The files of sentence-transformers around a transformer: ``modules.json`` and a linear map without bias."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

WEIGHTS = "model.safetensors"


def write_modules(folder: Path, modules: Mapping[str, str], settings: Mapping[str, Any]) -> None:
    """Write ``modules.json``, and the settings of the whole to ``config_sentence_transformers.json``.

    Args:
        modules: the class of each by its folder, in order; of the first, the transformer, that is the folder itself.
    """
    listed = [
        {"idx": number, "name": str(number), "path": path, "type": kind}
        for number, (path, kind) in enumerate(modules.items())
    ]
    for path in modules:
        (folder / path).mkdir(exist_ok=True)
    write_json(folder / "modules.json", listed)
    write_json(folder / "config_sentence_transformers.json", settings)


def write_dense(folder: Path, weight: Tensor, **more: str) -> None:
    """Write a map's weight ``(d, H)``."""
    width, states = weight.shape
    write_json(
        folder / "config.json",
        {
            "in_features": states,
            "out_features": width,
            "bias": False,
            "activation_function": "torch.nn.modules.linear.Identity",
            **more,
        },
    )
    save_file({"linear.weight": weight.detach().cpu().contiguous()}, folder / WEIGHTS)


def read_dense(folder: Path) -> Tensor:
    """The weight ``(d, H)``; OSError, KeyError or ValueError where there is none."""
    try:
        weight: Tensor = load_file(folder / WEIGHTS)["linear.weight"]
    except OSError:
        raise
    except Exception as error:  # SafetensorError is no subclass of anything that says so
        raise ValueError(f"{folder / WEIGHTS} holds no map ({error})") from error
    return weight


def write_json(path: Path, value: Any) -> None:
    """A JSON file."""
    path.write_text(json.dumps(value, indent=2) + "\n")
