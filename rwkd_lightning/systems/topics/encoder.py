"""Loading a sentence encoder, and refusing what would run code of its own or start from random numbers."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch

from rwkd_lightning.cache.store import digest, file_digest
from rwkd_lightning.systems.topics.needs import needed
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.model_files import fingerprint

WITH_CONFIG, WITH_WEIGHTS = ("Pooling", "Dense", "LayerNorm"), ("Dense", "LayerNorm")
MODULES = ("Transformer", *WITH_CONFIG, "Normalize")
ARGUMENTS = ("model_args", "tokenizer_args", "config_args", "model_kwargs", "processor_kwargs", "config_kwargs")


def encoder_digest(folder: Path, encoder: str) -> str:
    """Digest of all files that the embeddings depend on: network, tokenizer and the modules after it."""
    parts = [folder / path for path in modules(folder, encoder).values()]
    after = [
        file for part in parts if part != folder for kind in ("*.json", "*.safetensors") for file in part.glob(kind)
    ]
    others = [folder / "modules.json", *folder.glob("*sentence_*.json"), *after]
    return digest([fingerprint(folder), {str(file.relative_to(folder)): file_digest(file) for file in others}])


def modules(folder: Path, encoder: str) -> dict[str, str]:
    """The folder of each module by its kind, as ``modules.json`` says it.

    Raises:
        UserError: if there is no such file, for a module of a kind that is not known or that has code of its own, and
            where a module's files are missing or pickled.
    """
    file = folder / "modules.json"
    listed = _json(file, encoder)
    if not isinstance(listed, list) or not all(isinstance(m, dict) and isinstance(m.get("path"), str) for m in listed):
        raise UserError(f"encoder {encoder!r}: {file} is not a list of modules; fetch it again")
    found: dict[str, str] = {}
    for module in listed:
        package, _, kind = str(module.get("type")).rpartition(".")
        if package.split(".")[0] != "sentence_transformers" or kind not in MODULES or kind in found:
            raise UserError(
                f"encoder {encoder!r}: its modules.json has a module {module.get('type')!r}, and only "
                f"sentence-transformers' own {', '.join(MODULES)}, each once, are run; give another encoder"
            )
        if Path(module["path"]).name != module["path"] or (kind == "Transformer") != (module["path"] == ""):
            raise UserError(
                f"encoder {encoder!r}: its modules.json has the {kind} in {module['path']!r}; the Transformer must "
                "lie beside modules.json and the others in folders there"
            )
        found[kind] = module["path"]
        for kinds, name in ((WITH_CONFIG, "config.json"), (WITH_WEIGHTS, "model.safetensors")):
            if kind in kinds and not (folder / module["path"] / name).is_file():
                raise UserError(
                    f"encoder {encoder!r}: {name} is missing in {folder / module['path']} (pickled weights are "
                    "not read); fetch it again, or save it again with sentence-transformers"
                )
    if "Transformer" not in found or "Pooling" not in found:
        raise UserError(
            f"encoder {encoder!r}: its modules.json has only {', '.join(found) or 'nothing'}; a sentence encoder "
            "has a Transformer and a Pooling"
        )
    for settings in folder.glob("sentence_*_config.json"):
        given = _json(settings, encoder)
        if wrong := [name for name in ARGUMENTS if isinstance(given, dict) and given.get(name)]:
            raise UserError(
                f"encoder {encoder!r}: {settings.name} sets {wrong[0]}={given[wrong[0]]!r}, which can ask for code "
                f"of a hub; delete {wrong[0]} there, or give another encoder"
            )
    return found


def load_encoder(folder: Path, encoder: str, device: torch.device | str) -> Any:
    """The ``SentenceTransformer`` in this folder, in float32 and for inference.

    Raises:
        UserError: as `modules`, and if it cannot be loaded or its weights are not all there.
    """
    transformers, library = needed("transformers"), needed("sentence_transformers")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
    modules(folder, encoder)
    try:
        network, report = transformers.AutoModel.from_pretrained(
            folder, trust_remote_code=False, use_safetensors=True, output_loading_info=True
        )
        model = library.SentenceTransformer(
            str(folder),
            device=str(device),
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True},
        )
    except (
        Exception
    ) as error:  # half a file, weights of another model, a kind that it does not know: all raise differently
        line = " ".join(str(error).split())[:160]
        raise UserError(
            f"encoder {encoder!r} in {folder} cannot be loaded ({line}); if a file is cut off, fetch it again"
        ) from error
    # the pooler of a BERT is no part of most sentence encoders
    if lost := sorted(name for name in report["missing_keys"] if "pooler" not in name):
        raise UserError(
            f"encoder {encoder!r}: its weights lack {len(lost)} tensors, as {lost[0]}; they are of another model "
            "than its config.json, or cut off"
        )
    positions, length = getattr(network.config, "max_position_embeddings", None), model.max_seq_length
    if positions is not None and length is not None and length > positions:
        raise UserError(
            f"encoder {encoder!r} cuts texts at {length} tokens (max_seq_length), and its network takes {positions}; "
            "give less in sentence_bert_config.json"
        )
    if len(model.tokenizer) > (rows := network.get_input_embeddings().num_embeddings):
        raise UserError(
            f"encoder {encoder!r}: its tokenizer has {len(model.tokenizer)} tokens, its embedding {rows}; the "
            "tokenizer is of another model"
        )
    return model.float().eval()


def _json(file: Path, encoder: str) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"encoder {encoder!r}: no {file.name} in {file.parent}, so it is no sentence encoder; give one that "
            "sentence-transformers saved"
        ) from error
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"encoder {encoder!r}: {file} is not JSON; fetch it again") from error
