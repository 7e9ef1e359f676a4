"""Adapters (LoRA) beside their base: merged into a whole model on loading, once, in the hub's cache of assets."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rwkd_lightning.cache.store import digest
from rwkd_lightning.utils.errors import UserError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter to other weights, with or without a config.json beside it."""
    return (folder / CONFIG).is_file()


def merged(folder: Path, path: str, find: Callable[[str], Path], fingerprint: Callable[[Path], dict[str, str]]) -> Path:
    """The folder of the whole model: base and adapter as one, computed where it is not there yet.

    Args:
        folder: of the adapter, as PEFT writes it.
        path: as the user gave it.
        find: the folder of the base from its path.
        fingerprint: of the base's files and the adapter's, by which the merged model is kept.

    Raises:
        UserError: without PEFT, for a base that cannot be had, weights that are a pickle, and an adapter that does not
            fit its base.
    """
    from huggingface_hub import cached_assets_path

    base = base_of(folder)
    of = f"model {path!r} is an adapter to {base!r}" if base else f"model {path!r} is an adapter to other weights"
    if base is None:
        raise UserError(f"{of}, and its {CONFIG} does not say which; give base_model_name_or_path there")
    if not (folder / WEIGHTS).is_file():
        raise UserError(
            f"{of}, and {folder} has no {WEIGHTS}; save it with PEFT's save_pretrained (a pickle, adapter_model.bin, "
            "is not read)"
        )
    peft_or(f"{of}; merging the two needs PEFT")
    try:
        whole = find(base)
    except UserError as error:
        raise UserError(f"{of}, which is needed too: {error}") from error
    key = digest([fingerprint(whole), fingerprint(folder), digest((folder / CONFIG).read_text(encoding="utf-8"))])[:16]
    out = Path(cached_assets_path("rwkd_lightning", namespace="merged", subfolder=key))
    if not (out / "config.json").is_file():
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=out.parent))
        try:
            merge(whole, folder, part)
            shutil.rmtree(out)
            os.replace(part, out)
        except UserError:
            raise
        except Exception as error:  # PEFT and transformers raise what they like
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{of}, and does not fit it ({reason}); give its own base, or a merged model") from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return out


def peft_or(needs: str) -> Any:
    """PEFT.

    Args:
        needs: how the message begins where it is not installed.

    Raises:
        UserError: without it.
    """
    if importlib.util.find_spec("peft") is None:
        raise UserError(f'{needs}; pip install "rwkd_lightning[lora]"')
    return importlib.import_module("peft")


def base_of(folder: Path) -> str | None:
    """The path of the base, as the adapter names it."""
    try:
        base = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError, RecursionError, OSError):
        return None
    return base if isinstance(base, str) and base else None


def merge(base: Path, adapter: Path, out: Path) -> None:
    """Write base and adapter as one sequence classifier with its tokenizer."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    peft = peft_or("an adapter needs PEFT")
    outputs = outputs_of(adapter / WEIGHTS)
    options = {} if outputs is None else {"num_labels": outputs}
    with torch.random.fork_rng(devices=[]):  # a new head is drawn, and replaced by the adapter's
        model = AutoModelForSequenceClassification.from_pretrained(
            base, trust_remote_code=False, use_safetensors=True, ignore_mismatched_sizes=True, **options
        )
    peft.PeftModel.from_pretrained(model.float(), adapter).merge_and_unload().save_pretrained(out)
    has_tokenizer = (adapter / "tokenizer.json").is_file() or (adapter / "tokenizer_config.json").is_file()
    source = adapter if has_tokenizer else base
    AutoTokenizer.from_pretrained(source, trust_remote_code=False).save_pretrained(out)


def outputs_of(weights: Path) -> int | None:
    """C of the head that was saved with the adapter; None where it has none."""
    from safetensors import safe_open

    found = []
    with safe_open(weights, "pt") as file:
        for name in file.keys():  # noqa: SIM118 - no mapping
            shape = file.get_slice(name).get_shape()
            if "lora_" not in name and name.endswith("weight") and len(shape) == 2:
                found.append(shape[0])
    return min(found, default=None)
