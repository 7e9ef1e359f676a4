"""Depth pruning: keeping some of a network's transformer blocks, with a config that describes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from rwkd_lightning.systems.text.models.classifier import find_blocks
from rwkd_lightning.systems.text.models.probing import probe_ids, taking
from rwkd_lightning.utils.errors import UserError

INDICES = ("mlp_only_layers", "moe_layers", "hybrid_layer_ids")
"""Entries of a config that list blocks by their number."""
COUNTS = ("max_window_layers", "first_k_dense_replace")
"""Entries of a config that say how many of the first blocks are of one sort."""
PLACES = ("layer_idx", "layer_id", "layer_number", "layer_num", "seed")
"""Attributes of a block's modules that hold the block's number, for a cache of keys and values (``seed``: for the
sparse attention of BigBird, which is not used).
"""


def cut(network: nn.Module, layers: Sequence[int]) -> None:
    """Keep only these transformer blocks, in this order; each stays what it is (its window of attention, its experts).

    Raises:
        UserError: if a block does not exist, is named twice, or none is named; or if no config can describe the kept
            blocks, so that the cut model would be another one when it is loaded again.
    """
    name, blocks = find_blocks(network)
    config: Any = network.config
    wanted = f"pair.student.layers={list(layers)}"
    other = "use pair.student.layers=null, or a smaller model"
    if config.is_encoder_decoder:
        raise UserError(
            f"{wanted}: a {config.model_type} has an encoder and a decoder, and the numbers name the blocks of one "
            f"stack; {other}"
        )
    total = config.get_text_config().num_hidden_layers
    unlike = UserError(
        f"{wanted}: the blocks of a {config.model_type} are not alike, share weights or depend on how many "
        f"there are, so they cannot be taken apart; {other}"
    )
    if len(blocks) != total:
        raise unlike
    wrong = [i for i in layers if not 0 <= i < total]
    if wrong or not layers or len(set(layers)) != len(layers):
        raise UserError(f"{wanted}: name each block once, from 0 to {total - 1}")
    parent, _, attribute = name.rpartition(".")
    kept = nn.ModuleList(blocks[i] for i in layers)
    setattr(network.get_submodule(parent), attribute, kept)
    for place, (old, block) in enumerate(zip(layers, kept, strict=True)):
        for module in block.modules():
            for key in PLACES:
                if vars(module).get(key) == old:
                    setattr(module, key, place)
    for described in configs(network, total):
        cut_config(described, layers, total)
    if not rebuilds(network):
        raise unlike


def configs(network: nn.Module, total: int) -> list[Any]:
    """The configs that describe so many blocks: a backbone may hold a copy of its classifier's, and one may lie in
    another.
    """
    held: list[Any] = [module.config for module in network.modules() if hasattr(module, "config")]
    whole = {id(c): c for config in held for c in (config, config.get_text_config())}
    return [config for config in whole.values() if getattr(config, "num_hidden_layers", None) == total]


def cut_config(config: Any, layers: Sequence[int], total: int) -> None:
    """Make a config of ``total`` blocks that of these alone, in lists with an entry per block and special entries.

    Args:
        config: changed in place.
        layers: the numbers of the kept blocks, in their new order.
        total: blocks before.
    """
    step = getattr(config, "decoder_sparse_step", 1)
    if step != 1:  # every so many blocks have experts: the others are named instead
        config.mlp_only_layers = sorted({*(config.mlp_only_layers or ()), *(i for i in range(total) if (i + 1) % step)})
        config.decoder_sparse_step = 1
    for key, value in list(vars(config).items()):
        if key in COUNTS and isinstance(value, int):
            setattr(config, key, sum(i < value for i in layers))
        elif not isinstance(value, list | tuple) or key.endswith(("token_id", "token_ids")) or key == "architectures":
            continue
        elif key in INDICES:
            setattr(config, key, [place for place, i in enumerate(layers) if i in value])
        elif key == "attention_types":  # of GPT-Neo: [[kinds, how often], ...]
            each = [kind for kinds, often in value for _ in range(often) for kind in kinds]
            setattr(config, key, [[[each[i] for i in layers], 1]])
        elif len(value) == total:
            setattr(config, key, type(value)(value[i] for i in layers))
    config.num_hidden_layers = len(layers)  # under whatever name this kind of model keeps it


@torch.no_grad()
def rebuilds(network: nn.Module) -> bool:
    """Whether a model built from this one's saved config, with its weights, is the same and answers the same."""
    try:
        config: Any = type(network.config).from_dict(json.loads(network.config.to_json_string()))  # type: ignore[union-attr,operator]
        config._attn_implementation = network.config._attn_implementation  # type: ignore[union-attr]
        again: Any = type(network)(config)
        again.load_state_dict(network.state_dict())
        positions = getattr(config.get_text_config(), "max_position_embeddings", None) or 0  # -1 of XLNet: no limit
        ids = probe_ids(network, min(256, positions if positions > 0 else 256) - 2)
        mine, its = (taking(model, ids) for model in (network, again))
    except Exception:  # a config is checked by its class, and a stack without one sort of block by the network
        return False
    # a window longer than the probe would not show in the logits
    return torch.allclose(mine, its, atol=1e-5) and traits(network) == traits(again)


def traits(network: nn.Module) -> Mapping[str, Any]:
    """Numbers and names in the modules of the blocks beside weights: kinds of attention, windows, scales."""
    _, blocks = find_blocks(network)
    return {
        f"{name}.{key}": value
        for name, module in blocks.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, bool | int | float | str | None) and not key.startswith("_") and key != "training"
    }
