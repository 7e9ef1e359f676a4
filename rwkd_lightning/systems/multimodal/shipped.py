"""A finished student of text and picture, to be asked for rows of one's own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rwkd_lightning.systems.multimodal.collection import NONE
from rwkd_lightning.systems.multimodal.encoders.features import encoder_of
from rwkd_lightning.systems.multimodal.fusion import Fusion
from rwkd_lightning.systems.multimodal.pictures import opened
from rwkd_lightning.systems.text.models.loading import load_tokenizer
from rwkd_lightning.utils.errors import UserError

FILE = "pictures.json"
"""How pictures and texts become inputs: encoder, size, grid, max_length and the modalities that are seen."""


class Student:
    """A student with its tokenizer and its image encoder.

    Args:
        folder: ``student/`` of a finished run.

    Raises:
        UserError: for another folder, or an encoder that is out of reach.
    """

    def __init__(self, folder: str | Path) -> None:
        from transformers import VisualBertForVisualReasoning

        file = Path(folder) / FILE
        if not file.is_file():
            raise UserError(f"{folder} has no {FILE}; give the folder student/ of a finished run of text and picture")
        self.settings: dict[str, Any] = json.loads(file.read_text())
        network = VisualBertForVisualReasoning.from_pretrained(folder, trust_remote_code=False, use_safetensors=True)
        self.tokenizer = load_tokenizer(str(folder))
        self.network = Fusion(network, self.tokenizer.sep_token_id, (self.settings["modalities"],)).eval()
        self.encoder = encoder_of(self.settings["encoder"])
        self.classes: list[str] = [network.config.id2label[number] for number in range(network.config.num_labels)]

    @torch.inference_mode()
    def logits(self, texts: Sequence[str], pictures: Sequence[str | Path | None]) -> Tensor:
        """``(B, C)`` for texts (empty: none) and files of pictures (None: none).

        Raises:
            UserError: for a file that is no picture, naming it.
        """
        size, side = self.settings["size"], self.settings["grid"]
        files = [Path(file) for file in pictures if file is not None]
        shown = [opened(file, str(file)) for file in files]
        width = self.network.network.config.visual_embedding_dim
        grids = self.encoder.grid(self.encoder.prepare(shown, size), side) if shown else torch.zeros(0, side**2, width)
        numbers = iter(range(len(files)))
        places = [NONE if file is None else next(numbers) for file in pictures]
        visual = torch.stack([torch.zeros(side**2, width) if place == NONE else grids[place] for place in places])
        tokens = self.tokenizer(
            list(texts), truncation=True, max_length=self.settings["max_length"], padding=True, return_tensors="pt"
        )
        batch = {
            "input_ids": tokens["input_ids"],
            "attention_mask": tokens["attention_mask"],
            "visual_embeds": visual.half(),  # as in training
            "has_text": torch.tensor([bool(text) for text in texts]),
            "has_image": torch.tensor([place != NONE for place in places]),
        }
        found: Tensor = self.network(batch)["logits"]
        return found


def describe(folder: Path, settings: Any) -> None:
    """Write into the student's folder how its inputs are made."""
    encoder = settings.pair.encoder
    told = {
        "encoder": encoder.path,
        "size": encoder.size,
        "grid": encoder.grid,
        "max_length": settings.data.max_length,
        "modalities": settings.pair.student.modalities,
    }
    (folder / FILE).write_text(json.dumps(told, indent=1))
