"""Loading a transformer that reads queries and documents, and what both kinds of retrieval models share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rwkd_lightning.systems.text.models.classifier import find_blocks, names_from_last_block
from rwkd_lightning.systems.text.models.depth import cut
from rwkd_lightning.systems.text.models.loading import Kind, load_network
from rwkd_lightning.systems.text.models.wrapping import inputs_of
from rwkd_lightning.utils.errors import UserError

ENCODER = Kind("AutoModel", "MODEL_MAPPING", "text encoder")


class Encoder(nn.Module):
    """A transformer from tokens to states, and a linear map after it; students and teachers add how texts compare.

    Args:
        network: any ``AutoModel`` that gives ``last_hidden_state``.
        width: d of the map's output; None: H, and the map begins as the identity.
    """

    def __init__(self, network: Any, width: int | None = None) -> None:
        super().__init__()
        self.network = network
        self.inputs = inputs_of(network)
        states = int(network.config.get_text_config().hidden_size)
        self.projection = nn.Linear(states, width or states, bias=False)
        nn.init.eye_(self.projection.weight)
        if getattr(network, "pooler", None) is not None:  # it reads what nothing here reads
            network.pooler.requires_grad_(False)

    def states(self, batch: Mapping[str, Tensor], what: str) -> tuple[Tensor, Tensor]:
        """States ``(N, T, H)`` of the last block and the mask ``(N, T)``; ``what`` is ``query`` or ``document``."""
        mask = batch[f"{what}_mask"]
        given = {"input_ids": batch[f"{what}_ids"], "attention_mask": mask}
        if "token_type_ids" in self.inputs:
            given["token_type_ids"] = torch.zeros_like(batch[f"{what}_ids"])
        return self.network(**given).last_hidden_state, mask

    def block_names(self) -> list[str]:
        """Names of the trainable parameters from the last transformer block on."""
        return names_from_last_block(self, self.network)

    @property
    def num_blocks(self) -> int:
        """Transformer blocks."""
        return len(find_blocks(self.network)[1])

    @property
    def width(self) -> int:
        """d."""
        return self.projection.out_features


def mean(states: Tensor, mask: Tensor) -> Tensor:
    """The mean ``(N, H)`` of the states ``(N, T, H)`` where the mask ``(N, T)`` is true; 0 for a text without any."""
    weights = mask.to(states.dtype)[..., None]
    return (states * weights).sum(1) / weights.sum(1).clamp_min(1)


def unit(vectors: Tensor) -> Tensor:
    """Vectors ``(..., d)`` of length 1, in float32 at least; 0 stays 0."""
    return F.normalize(vectors if vectors.dtype == torch.float64 else vectors.float(), dim=-1)


def load_transformer(path: str, layers: Sequence[int] | None = None) -> Any:
    """A transformer in float32.

    Args:
        path: see ``utils.model_files.find``.
        layers: indices of the blocks to keep; None keeps all.

    Raises:
        UserError: if the model cannot be had, lacks one of the layers, gives no states of its tokens, or if its weights
            are not all there.
    """
    network, report, config = load_network(path, 1, {}, ENCODER)
    if config.is_encoder_decoder or not hasattr(config.get_text_config(), "hidden_size"):
        raise UserError(f"model {path!r} is a {config.model_type}, no encoder of texts; give one, as BERT or MPNet")
    if lost := sorted(name for name in report["missing_keys"] if "pooler" not in name):
        raise UserError(
            f"model {path!r}: its weights lack {len(lost)} tensors, as {lost[0]}; they are of another model than its "
            "config.json, or cut off"
        )
    if report["mismatched_keys"]:
        raise UserError(f"model {path!r}: its weights are of other sizes than its config.json says; fetch both again")
    if layers is not None:
        cut(network, layers)
    return network
