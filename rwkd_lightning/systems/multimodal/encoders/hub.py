"""An image encoder of transformers (ViT, CLIP, SigLIP, DINOv2), from the hub or a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rwkd_lightning.cli.kinds import first_line
from rwkd_lightning.utils.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image


class HubEncoder(nn.Module):
    """The states of the last block, on the square of the picture's patches.

    Args:
        network: gives ``last_hidden_state`` ``(B, [1 or more +] n², D)`` for ``pixel_values``.
        processor: transformers' own of the model.
    """

    def __init__(self, network: Any, processor: Any) -> None:
        super().__init__()
        self.network, self.processor = network, processor
        self.width = int(network.config.hidden_size)

    def prepare(self, pictures: Sequence[Image], size: int) -> Tensor:
        """``(B, 3, h, w)``; ``size`` is the model's own and not read."""
        found: Tensor = self.processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        return found

    def grid(self, pictures: Tensor, side: int) -> Tensor:
        """Features ``(B, side², D)``, the means over as many fields."""
        states = self.network(pixel_values=pictures).last_hidden_state
        patch = self.network.config.patch_size
        rows, columns = pictures.shape[2] // patch, pictures.shape[3] // patch
        patches = states[:, states.shape[1] - rows * columns :]  # without the tokens before them
        maps = patches.mT.unflatten(2, (rows, columns))
        return nn.functional.adaptive_avg_pool2d(maps, side).flatten(2).mT


def load_hub(folder: Path, path: str) -> HubEncoder:
    """The encoder in a folder; of a model of pictures and texts the half of the pictures.

    Raises:
        UserError: for another kind of model, or files that cannot be read.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoModel
    from transformers.utils import logging as noise

    noise.set_verbosity_error()
    noise.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if hasattr(config, "patch_size") or hasattr(getattr(config, "vision_config", None), "patch_size"):
            network = AutoModel.from_pretrained(
                folder, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
            )
            network = getattr(network, "vision_model", network)
            processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False, use_fast=False)
            return HubEncoder(network, processor).eval().requires_grad_(False)
    except Exception as error:  # a missing file, a cut-off one, an unknown kind: all raise differently
        raise UserError(
            f"pair.encoder.path={path}: this model of pictures cannot be loaded ({first_line(error)}); give a ViT, "
            "CLIP or SigLIP with its preprocessor_config.json and model.safetensors"
        ) from error
    raise UserError(
        f"pair.encoder.path={path} is a {config.model_type}, which gives no square of patches; give a ViT, CLIP or "
        "SigLIP, or lite0"
    )
