"""Where a model's files are: a directory, one of our runs, an installed package, or a hub. Checked before anything is
loaded.
"""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

from rwkd_lightning.cache.store import file_digest
from rwkd_lightning.utils.adapters import is_adapter, merged
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.paths import place

WEIGHTS, SHARDS = "model.safetensors", "model.safetensors.index.json"
FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
"""The files that are fetched from a hub: weights as safetensors alone, configs, the files of every kind of
tokenizer.
"""


FORMATS = {
    "*.gguf": "llama.cpp",
    "*.onnx": "ONNX",
    "onnx/*.onnx": "ONNX",
    "openvino*.xml": "OpenVINO",
    "openvino/*.xml": "OpenVINO",
    "*.h5": "TensorFlow",
    "*.msgpack": "Flax",
}
"""Weights in formats that are not read, by the pattern of their files."""


def find(path: str) -> Path:
    """The checked folder of a model.

    Args:
        path: a directory; the folder of a finished run, for its student; ``package:NAME/FOLDER``, a folder of an
            installed package (which is not imported); or a hub's name, fetched once and kept in the hub's own cache. Of
            an adapter (LoRA) the model is meant that it makes of its base: see `adapters.merged`.

    Raises:
        UserError: if it is not there, lacks weights or has only pickled ones, or needs code of its own.
    """
    local = place(path, "a model's path")
    folder = _package(path) if path.startswith("package:") else _directory(local) or _hub(path)
    if is_adapter(folder):
        return merged(folder, path, find, fingerprint)
    check(folder, path, fetched=not path.startswith("package:") and not local.is_dir())
    return folder


def _package(path: str) -> Path:
    name, _, folder = path.removeprefix("package:").partition("/")
    if not name.isidentifier() or folder.startswith("/") or ".." in Path(folder).parts:
        # a dotted name would import what it lies in
        raise UserError(f"model {path!r} is no folder of a package; write package:NAME/FOLDER, or give a directory")
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"model {path!r}: the package {name} is not installed; pip install {name.replace('_', '-')}")
    return Path(spec.submodule_search_locations[0]) / folder


def _directory(folder: Path) -> Path | None:
    if not folder.is_dir():
        return None
    return folder / "student" if (folder / "student" / "config.json").is_file() else folder


class Unreachable(UserError):
    """A model that lies on a hub which cannot be reached."""


def _hub(path: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path) or path.startswith("."):
        raise UserError(
            f"model {path!r} is not a directory; give one that holds config.json, {WEIGHTS} and the tokenizer"
        )
    try:
        # subfolders of a hub's repository hold other formats of the weights, or (1_Pooling) modules of an encoder
        return Path(snapshot_download(path, allow_patterns=list(FILES), ignore_patterns=["[!0-9]*/*"]))
    except GatedRepoError as error:
        raise UserError(
            f"model {path!r}: the hub gives it only to those who accepted its terms; accept them on its page and log "
            "in (hf auth login), or give a directory"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"model {path!r} is no directory here, and the hub has no public model of that name; check its "
            "spelling, log in if it is private (hf auth login), or give a directory"
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise Unreachable(
            f"model {path!r} is no directory here, and the hub cannot be reached (or HF_HUB_OFFLINE is set); give a "
            "directory, or fetch it once on a machine that reaches the hub"
        ) from error
    except Exception as error:  # a network that breaks off, a full disk: the client raises many unrelated types
        raise UserError(
            f"model {path!r} could not be fetched ({_line(error)}); run again to go on with the download, or give "
            "a directory"
        ) from error


def check(folder: Path, path: str, fetched: bool = False) -> None:
    """Raise UserError unless ``folder`` holds a config that needs no code of its own, and whole safetensors weights.

    Args:
        folder: the model's files.
        path: as the user gave it.
        fetched: it comes from a hub, of whose files not all are fetched.
    """
    config = read_config(folder, path)
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        asks = (
            "asks for code of its own (auto_map), which is never run" if "auto_map" in config else "is of no known kind"
        )
        raise UserError(
            f"model {path!r}: its config.json {asks} (model_type {kind!r}); give a model whose class is part of "
            "transformers, or a newer transformers"
        )
    for name in ("attn_implementation", "_attn_implementation"):
        if isinstance(value := config.get(name), dict) or "/" in str(value):
            raise UserError(
                f"model {path!r}: its config.json asks for an attention of its own ({name}={value!r}), code of a hub "
                f"which is never run; delete {name} there"
            )
    if config.get("quantization_config"):
        raise UserError(
            f"model {path!r}: its weights are quantised (quantization_config in config.json), and training needs "
            "whole ones; give the model that it was made of"
        )
    missing = [name for name in shards(folder, path) if not (folder / name).is_file()]
    if not missing:
        return
    pickled = sorted(
        file.name
        for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
        for file in folder.glob(pattern)
        if not file.name.startswith("openvino")
    )
    if pickled:
        raise UserError(
            f"model {path!r} has its weights only as {pickled[0]}, a pickle, which can run code when read; convert "
            f"it where you trust it: AutoModelForSequenceClassification.from_pretrained(...).save_pretrained(DIR)"
        )
    refuse_other_formats(folder, path)
    if fetched:
        raise UserError(
            f"model {path!r}: no {missing[0]} came from the hub, which may have its weights only in another format; "
            "give a directory with safetensors weights, as save_pretrained writes it"
        )
    raise UserError(
        f"model {path!r}: {missing[0]} is missing in {folder} (an interrupted download or copy); fetch it again"
    )


def refuse_other_formats(folder: Path, path: str) -> None:
    """Raise UserError for weights that are there, but made for other programs."""
    for pattern, name in FORMATS.items():
        if found := sorted(str(file.relative_to(folder)) for file in folder.glob(pattern)):
            raise UserError(
                f"model {path!r} has its weights only for {name} ({found[0]}), which cannot be trained here; give "
                f"the model that they were made of, with {WEIGHTS}"
            )


def read_config(folder: Path, path: str) -> dict[str, Any]:
    """``config.json`` as it is written."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        inner = sorted(file.parent for file in folder.glob("*/config.json") if (file.parent / WEIGHTS).is_file())
        if inner:  # as older versions of sentence-transformers wrote it: 0_Transformer
            raise UserError(
                f"model {path!r}: no config.json in {folder}, but one with weights in {inner[0]}; give {inner[0]}"
            ) from error
        refuse_other_formats(folder, path)
        raise UserError(
            f"model {path!r}: no config.json in {folder}; give the directory that save_pretrained wrote"
        ) from error
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(
            f"model {path!r}: {folder / 'config.json'} is not JSON ({_line(error)}); fetch it again"
        ) from error
    if not isinstance(config, dict):
        raise UserError(
            f"model {path!r}: {folder / 'config.json'} is not JSON of a config (a {type(config).__name__}); fetch it "
            "again"
        )
    return config


def shards(folder: Path, path: str) -> list[str]:
    """Names of the files with the weights."""
    if (folder / WEIGHTS).is_file() or not (folder / SHARDS).is_file():
        return [WEIGHTS]
    try:
        named = set(json.loads((folder / SHARDS).read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise UserError(f"model {path!r}: {folder / SHARDS} cannot be read ({_line(error)}); fetch it again") from error
    wrong = [
        name
        for name in named
        if not isinstance(name, str) or not name.endswith(".safetensors") or name != Path(name).name
    ]
    if wrong or not named:
        raise UserError(
            f"model {path!r}: {folder / SHARDS} names {wrong[0] if wrong else None!r} as a file with weights; it "
            "must name safetensors files beside it"
        )
    return sorted(named)


def fingerprint(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a model that its outputs depend on, by name."""
    files = {file for pattern in FILES for file in folder.glob(pattern)}
    other = {
        "key.json",
        "shipped.json",
        "README.md",
        "modules.json",
        "config_sentence_transformers.json",
        "sentence_bert_config.json",
        "requirements.txt",
        "LICENSE.txt",
        "train_script.txt",
        "generation_config.json",
    }
    return {file.name: file_digest(file) for file in sorted(files) if file.name not in other}


def size(folder: Path) -> int:
    """Bytes of a model's weights."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]
