"""LoRA: a student whose body is frozen but for low-rank updates of its linear layers, which are merged at the end.

A layer W x becomes W x + (α/r)·B A x with A ``(r, in)`` and B ``(out, r)``; B begins at 0, so the student begins as it
was (Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022, section 4.1).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from rwkd_lightning.systems.text.models.classifier import Classifier
from rwkd_lightning.utils.adapters import peft_or
from rwkd_lightning.utils.errors import UserError

KEY = "pair.student.lora"


@dataclass(frozen=True)
class Lora:
    """The settings of an adapter."""

    rank: int
    """r."""
    alpha: float
    """α; the update is scaled by α/r."""
    dropout: float = 0.0
    """Of the input of A, in training."""
    targets: Sequence[str] | None = None
    """Ends of the names of linear layers; None: all of the body."""


def lora_of(given: Any) -> Lora | None:
    """The settings as the config has them: a group, the rank alone, or None; α is 2r where it is not given."""
    if given is None:
        return None
    keys: Mapping[str, Any] = {"rank": given} if isinstance(given, int) else given
    rank, alpha, targets = keys["rank"], keys.get("alpha"), keys.get("targets")
    return Lora(
        rank,
        2 * rank if alpha is None else alpha,
        keys.get("dropout") or 0.0,
        None if targets is None else list(targets),
    )


def adapt(student: Classifier, settings: Lora) -> None:
    """Freeze the student but for its head, what its checkpoint does not bring, and new low-rank updates.

    The layers are exchanged in place: the network stays what it is, and the names of its other parameters too.

    Raises:
        UserError: without PEFT, and for layers that there are not or that no update can be learned for.
    """
    peft = peft_or(f"{KEY} needs PEFT, which is not installed")
    network: Any = student.network
    body = f"{network.base_model_prefix}."
    names = chosen(network, settings, body)
    made = peft.LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=names
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out")  # set right for GPT-2's layers, which it then tells
        peft.inject_adapter_in_model(made, network)
    for name, parameter in network.named_parameters():
        if not name.startswith(body) or name in student.fresh:
            parameter.requires_grad_()


def chosen(network: nn.Module, settings: Lora, body: str) -> list[str]:
    """The names of the layers that get an update.

    Args:
        body: how the names of all modules below the head begin.
    """
    linear = {name: module for name, module in network.named_modules() if width(module) is not None}
    inside = [name for name in linear if name.startswith(body)]
    there = f"the linear layers of this {network.config.model_type} are {', '.join(dict.fromkeys(map(last, inside)))}"  # type: ignore[union-attr]
    if not inside:
        raise UserError(f"{KEY}: the body of this student has no linear layer; use {KEY}=null")
    names = []
    for target in settings.targets or inside:
        found = [name for name in linear if f".{name}".endswith(f".{target}")]
        outside = [name for name in found if not name.startswith(body)]
        if outside:
            raise UserError(
                f"{KEY}.targets: {outside[0]!r} belongs to the head, which is trained in full; leave it out"
            )
        if not found:
            raise UserError(f"{KEY}.targets: no linear layer is called {target!r}; {there}")
        names += [name for name in found if name not in names]
    owners: dict[int, int] = {}
    for module in network.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    for name in names:
        if owners[id(linear[name].weight)] > 1:
            raise UserError(
                f"{KEY}.targets: {name!r} shares its weights with another layer, which the merged update would change "
                f"too; name others: {there}"
            )
        if settings.rank > (most := width(linear[name]) or 0):
            raise UserError(
                f"{KEY}: the rank {settings.rank} is more than {most}, the full rank of {name!r}; give {KEY}={most} or "
                "less"
            )
    return names


def width(module: nn.Module) -> int | None:
    """The largest rank that a linear layer can have; None for other modules."""
    from transformers.pytorch_utils import Conv1D  # the linear layer of GPT-2

    return min(module.weight.shape) if isinstance(module, nn.Linear | Conv1D) else None


def last(name: str) -> str:
    """The last part of a module's name."""
    return name.rpartition(".")[2]


def adapted(network: nn.Module) -> list[tuple[str, Any]]:
    """The layers with an update, by name."""
    return [(name, module) for name, module in network.named_modules() if hasattr(module, "get_base_layer")]


def merge(network: nn.Module) -> None:
    """Add each update to its layer, in place: the network is of the kind that it was before."""
    for name, module in adapted(network):
        module.merge()
        parent, _, attribute = name.rpartition(".")
        setattr(network.get_submodule(parent), attribute, module.get_base_layer())
    vars(network).pop("peft_config", None)


def merged(network: nn.Module) -> nn.Module:
    """A copy with its updates merged; the network itself where it has none."""
    if not adapted(network):
        return network
    network = copy.deepcopy(network)
    merge(network)
    return network


def told(student: Classifier, settings: Lora) -> str:
    """A line that says which parameters are trained."""
    kinds = ", ".join(dict.fromkeys(last(name) for name, _ in adapted(student.network)))
    whole = sum(p.numel() for p in student.parameters())
    trained = sum(p.numel() for p in student.parameters() if p.requires_grad)
    return (
        f"LoRA of rank {settings.rank} in {len(adapted(student.network))} linear layers ({kinds}): {trained:,} of "
        f"{whole:,} parameters are trained ({trained / whole:.1%})"
    )
