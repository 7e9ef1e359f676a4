"""A model with a small word table on disk: in factors, which this package reads, and multiplied out, for all others."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rwkd_lightning.systems.text.compression.module import FactoredEmbedding
from rwkd_lightning.utils.errors import UserError

FACTORED, DESCRIBED, WEIGHTS = "factored", "compression.json", "model.safetensors"


def factored_of(network: Any) -> FactoredEmbedding | None:
    """A network's word table in factors; None where it is whole."""
    try:
        found = network.get_input_embeddings()
    except NotImplementedError:
        return None
    return found if isinstance(found, FactoredEmbedding) else None


def multiplied_out(network: Any) -> Any:
    """A copy whose word table is whole; the network itself where it is."""
    factored = factored_of(network)
    if factored is None:
        return network
    network = copy.deepcopy(network)
    table = factored.dense()
    whole = nn.Embedding(len(table), table.shape[1], padding_idx=factored.padding_idx)
    with torch.no_grad():
        whole.weight.copy_(table)
    network.set_input_embeddings(whole.to(table))
    return network


def write(folder: Path, network: Any, tokenizer: Any, int8: bool = False) -> int:
    """The model with its factors; the bytes of its weights.

    Args:
        int8: the rows of each block as whole numbers with a scale of their own, the maps with one a column.
    """
    factored = factored_of(network)
    assert factored is not None
    folder.mkdir(parents=True, exist_ok=True)
    name = next(key for key, module in network.named_modules() if module is factored)
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    places = state.pop(f"{name}.places")
    short = factored.num_embeddings <= 2**16
    state[f"{name}.places"] = places.to(torch.uint16) if short else places
    for key in [key for key in state if key.startswith(f"{name}.") and state[key].numel() == 0]:
        del state[key]
    if int8:
        for key in [key for key in state if key.startswith((f"{name}.rows.", f"{name}.maps."))]:
            by = 1 if ".rows." in key else 0
            state[key], state[f"{key}.scale"] = quantised(state[key], by)
    network.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    described = {"table": name, "shapes": factored.shapes, "padding_idx": factored.padding_idx}
    (folder / DESCRIBED).write_text(json.dumps(described) + "\n", encoding="utf-8")
    save_file(state, folder / WEIGHTS)
    return (folder / WEIGHTS).stat().st_size


def quantised(values: Tensor, by: int) -> tuple[Tensor, Tensor]:
    """Whole numbers from -127 to 127 and their scales, one for each row (``by=1``) or column (``by=0``).

    A scale is in bfloat16, whose range holds that of a rare word, and is rounded up, so that nothing is cut off.
    """
    exact = values.abs().amax(by, keepdim=True) / 127
    scale = exact.bfloat16()
    scale = torch.where(scale.float() < exact, (exact * (1 + 2**-7)).bfloat16(), scale)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (values / scale.float()).round().clamp(-127, 127).to(torch.int8), scale


def load(folder: str | Path) -> Any:
    """The network of a folder that `write` has written, its table in factors.

    Raises:
        UserError: for another folder, or files that do not belong together.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from rwkd_lightning.systems.text.models.source import known

    known()
    folder = Path(folder)
    try:
        described = json.loads((folder / DESCRIBED).read_text(encoding="utf-8"))
        state = load_file(folder / WEIGHTS)
        network = AutoModelForSequenceClassification.from_config(
            AutoConfig.from_pretrained(folder, trust_remote_code=False)
        )
        old = network.get_input_embeddings()
        words, width = old.weight.shape
        table = FactoredEmbedding(described["shapes"], words, width, described["padding_idx"])
        network.set_input_embeddings(table)
        name = described["table"]
        for key in [key for key in state if key.endswith(".scale") and key.startswith(f"{name}.")]:
            scale = state.pop(key)
            state[key.removesuffix(".scale")] = state[key.removesuffix(".scale")].float() * scale.float()
        state[f"{name}.places"] = state[f"{name}.places"].to(torch.int32)
        own = network.state_dict()
        empty = {key: value for key, value in own.items() if key.startswith(f"{name}.") and value.numel() == 0}
        network.load_state_dict({**state, **empty})
    except UserError:
        raise
    except Exception as error:  # no such file, half a file, other shapes: all raise differently
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{str(folder)!r} holds no compressed student ({reason}); give the folder {FACTORED}/ that "
            "rwkd_lightning.compress wrote"
        ) from error
    return network.eval()
