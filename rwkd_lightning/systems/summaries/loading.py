"""Summarisers: new small ones, models of transformers' kinds, and some of their blocks."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from rwkd_lightning.systems.summaries.summariser import Summariser, shifted, stack_of
from rwkd_lightning.systems.summaries.texts import padded
from rwkd_lightning.systems.text.models.depth import PLACES
from rwkd_lightning.systems.text.models.loading import Kind, check_kind, load_tokenizer
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.model_files import find, read_config

SEQ2SEQ = Kind("AutoModelForSeq2SeqLM", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING", "encoder-decoder")
DROPOUTS = ("dropout", "attention_dropout", "dropout_rate")
"""Of hidden states and attention, as BART's and T5's kinds call them in their configs."""


def new_summariser(sizes: Mapping[str, Any], tokenizer: Any, positions: int) -> Summariser:
    """A small BART of random weights.

    Args:
        sizes: ``width``, ``encoder_layers``, ``decoder_layers``, ``heads``, ``ffn`` and ``dropout``.
        tokenizer: of `trained_tokenizer`, or another model's.
        positions: tokens of a text that it takes.

    Raises:
        UserError: for heads that do not divide the width.
    """
    from transformers import BartConfig, BartForConditionalGeneration

    if sizes["width"] % sizes["heads"]:
        raise UserError(f"a model of width {sizes['width']} cannot have {sizes['heads']} heads; give a divisor of it")
    start = next(x for x in (tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id) if x is not None)
    config: Any = BartConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=positions,
        d_model=sizes["width"],
        encoder_layers=sizes["encoder_layers"],
        decoder_layers=sizes["decoder_layers"],
        encoder_attention_heads=sizes["heads"],
        decoder_attention_heads=sizes["heads"],
        encoder_ffn_dim=sizes["ffn"],
        decoder_ffn_dim=sizes["ffn"],
        dropout=sizes["dropout"],
        attention_dropout=sizes["dropout"],
        scale_embedding=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=start,
        forced_eos_token_id=None,
    )
    return Summariser(BartForConditionalGeneration(config))


def load_summariser(
    path: str,
    encoder_layers: Sequence[int] | None = None,
    decoder_layers: Sequence[int] | None = None,
    dropout: float | None = None,
) -> Summariser:
    """An encoder-decoder in float32 with all of its weights: BART, T5, Pegasus or another kind.

    Args:
        path: see ``utils.model_files.find``.
        encoder_layers, decoder_layers: numbers of the blocks to keep; None keeps all.
        dropout: of hidden states and attention; None: as the model has it.

    Raises:
        UserError: if it cannot be had, is of no such kind, lacks weights, or cannot be cut so.
    """
    import transformers

    silence()
    folder = find(path)
    read = read_config(folder, path)
    check_kind(read, path, SEQ2SEQ)
    dtype = "dtype" if tuple(map(int, version("transformers").split(".")[:2])) >= (4, 56) else "torch_dtype"
    options: dict[str, Any] = {dtype: torch.float32}
    try:
        config: Any = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if dropout is not None:
            for name in DROPOUTS:
                if hasattr(config, name):
                    setattr(config, name, dropout)
        network, report = transformers.AutoModelForSeq2SeqLM.from_pretrained(
            folder,
            config=config,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
        network.float()
    except Exception as error:  # half a file, a config without its numbers: all raise differently
        reason = " ".join(str(error).split())[:160]
        cut_off = "; if a file is cut off, fetch it again" if isinstance(error, SafetensorError | OSError) else ""
        raise UserError(
            f"model {path!r} in {folder} cannot be loaded as an encoder-decoder ({reason}){cut_off}"
        ) from error
    if report["missing_keys"]:
        raise UserError(
            f"model {path!r}: its weights lack {len(report['missing_keys'])} tensors, as "
            f"{min(report['missing_keys'])}; they are of another model than its config.json, or cut off"
        )
    for part, layers in (("encoder", encoder_layers), ("decoder", decoder_layers)):
        if layers is not None:
            cut(network, part, layers)
    return Summariser(network)


def cut(network: Any, part: str, layers: Sequence[int]) -> None:
    """Keep only these blocks of the ``encoder`` or ``decoder``, in this order.

    Raises:
        UserError: if a block does not exist, is named twice, or none is named; and for a first block that is another
            than it was, where that block alone holds the positions' biases (T5).
    """
    blocks, wanted = stack_of(network, part), f"pair.student.{part}_layers={list(layers)}"
    if not layers or len(set(layers)) != len(layers) or not all(0 <= i < len(blocks) for i in layers):
        raise UserError(f"{wanted}: name each block once, from 0 to {len(blocks) - 1}")
    names = [{name for name, _ in block.named_parameters()} for block in blocks]
    if names[0] != names[layers[0]] or any(names[i] != names[layers[-1]] for i in layers[1:]):
        raise UserError(
            f"{wanted}: the first block of a {network.config.model_type} differs from the others; keep 0 first"
        )
    kept = [blocks[i] for i in layers]
    for place, (old, block) in enumerate(zip(layers, kept, strict=True)):
        for module in block.modules():
            for key in PLACES:
                if vars(module).get(key) == old:
                    setattr(module, key, place)
    stack = getattr(network, f"get_{part}")()
    name = next(name for name, module in stack.named_children() if module is blocks)
    setattr(stack, name, nn.ModuleList(kept))
    for config in {id(c): c for c in (network.config, stack.config)}.values():
        for key in COUNTS[part] if config is network.config else (*COUNTS[part], "num_layers"):
            if hasattr(config, key) and isinstance(getattr(config, key), int):
                setattr(config, key, len(layers))


COUNTS = {
    "encoder": ("encoder_layers", "num_layers", "num_hidden_layers"),
    "decoder": ("decoder_layers", "num_decoder_layers"),
}
"""Entries of a config that count the blocks of a part."""


def load_summary_tokenizer(path: str) -> Any:
    """The tokenizer that belongs to a model.

    Raises:
        UserError: if there is none, or it marks neither padding nor an end.
    """
    tokenizer: Any = load_tokenizer(path)
    if tokenizer.pad_token_id is None or tokenizer.eos_token_id is None:
        raise UserError(f"model {path!r}: its tokenizer has no token for padding or for the end; give another model")
    tokenizer.padding_side = "right"
    return tokenizer


def same_tokens(one: Any, other: Any) -> bool:
    """Whether two tokenizers give the same tokens."""
    probe = "The quick brown foxes' jumps: 3.14 über (die) Zäune; OK?"
    return bool(one.get_vocab() == other.get_vocab() and one(probe)["input_ids"] == other(probe)["input_ids"])


def probe_batch(summariser: Summariser, tokenizer: Any, source: int, target: int) -> dict[str, Tensor]:
    """A document and a summary of so many tokens beside shorter ones."""
    config = summariser.network.config
    ordinary = [i for i in range(len(tokenizer)) if i not in set(tokenizer.all_special_ids)]
    draw = np.random.default_rng(0)
    documents = [draw.choice(ordinary, size) for size in (source, max(1, source // 2))]
    labels = padded([draw.choice(ordinary, size) for size in (target, max(1, target // 2))], -1)
    ids = padded(documents, tokenizer.pad_token_id)
    mask = padded([np.ones_like(row) for row in documents], 0)
    start = start_of(summariser, tokenizer)
    pad = int(config.pad_token_id if config.pad_token_id is not None else tokenizer.pad_token_id)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "decoder_input_ids": shifted(labels, start, pad),
        "labels": labels,
    }


def start_of(summariser: Summariser, tokenizer: Any) -> int:
    """The token that a summary's decoding begins with."""
    config = summariser.network.config
    known = (config.decoder_start_token_id, getattr(config, "bos_token_id", None), tokenizer.pad_token_id)
    return int(next(value for value in known if value is not None))


def check_summariser(summariser: Summariser, tokenizer: Any, source: int, target: int, path: str | None) -> None:
    """Raise UserError if the model cannot take texts of these lengths of its tokenizer, or answers by the padding."""
    was = summariser.training
    summariser.eval()
    try:
        with torch.no_grad():
            batch = probe_batch(summariser, tokenizer, source, target)
            both = summariser(batch)["logits"]
            size = int(batch["attention_mask"][1].sum())
            alone = {
                "input_ids": batch["input_ids"][1:, :size],
                "attention_mask": batch["attention_mask"][1:, :size],
                "decoder_input_ids": batch["decoder_input_ids"][1:],
            }
            own = summariser(alone)["logits"][0]
    except (IndexError, RuntimeError, ValueError, AssertionError) as error:
        if "memory" in str(error):
            raise
        raise UserError(
            f"model {path!r} cannot read {source} tokens of a document and {target} of a summary "
            f"({' '.join(str(error).split())[:120]}); lower data.document_length or data.summary_length"
        ) from error
    finally:
        summariser.train(was)
    if not bool(both.isfinite().all()):
        raise UserError(f"model {path!r} gives logits that are not finite: its weights are broken; fetch it again")
    read = batch["labels"][1] >= 0
    if float((both[1] - own)[read].abs().max()) > 1e-3 * float(own.abs().max()):
        raise UserError(f"model {path!r}: what it says of a text depends on the padding; give a model of another kind")


def try_writing(folder: Path, summariser: Summariser, tokenizer: Any, source: str) -> None:
    """Write an untrained model into ``folder``, load it again as its users will, and leave nothing behind.

    Raises:
        UserError: if it cannot be written or loaded, or says other things than the one in memory.
    """
    batch = probe_batch(summariser, tokenizer, 7, 4)
    with tempfile.TemporaryDirectory(prefix=".student-", dir=folder) as part, torch.random.fork_rng(devices=[]):
        try:
            save(Path(part), summariser, tokenizer)
            again = load_summariser(part).eval()
            tokens = same_tokens(load_summary_tokenizer(part), tokenizer)
        except OSError:  # of the disk, not of the model
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:160].replace(part, "the folder")
            raise UserError(
                f"{source}: this model cannot be written and loaded again ({reason}); give another"
            ) from error
        was = summariser.training
        with torch.no_grad():
            same = torch.allclose(again(batch)["logits"], summariser.eval()(batch)["logits"], atol=1e-4)
        summariser.train(was)
    if not (same and tokens):
        what = "says other things" if tokens else "has other tokens"
        raise UserError(f"{source}: written and loaded again, this model {what} than before; give another")


def silence() -> None:
    """Let transformers neither warn nor show bars of its own."""
    from transformers.utils import logging as noise

    noise.set_verbosity_error()
    noise.disable_progress_bar()


def save(folder: Path, summariser: Summariser, tokenizer: Any) -> None:
    """Write network and tokenizer as ``from_pretrained`` reads them."""
    silence()
    summariser.network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
