"""Tiny random models of several kinds, saved as the hub has them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from rwkd_lightning.systems.text.data.task import TaskSpec

TASK = TaskSpec("toy", ("text",), ("neg", "mid", "pos"), ("accuracy",), "accuracy", ("validation",))
SCORES = TaskSpec("scores", ("text",), None, ("pearson",), "pearson", ("validation",))
SMALL = {"vocab_size": 24, "max_position_embeddings": 40}
WIDTHS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
KINDS: dict[str, dict[str, Any]] = {
    "bert": WIDTHS,
    "roberta": {**WIDTHS, "pad_token_id": 1},
    "mpnet": {**WIDTHS, "pad_token_id": 1},
    "electra": {**WIDTHS, "embedding_size": 16},
    "deberta-v2": WIDTHS,
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    "xlm-roberta": {**WIDTHS, "pad_token_id": 1},
    "gpt2": {
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 40,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    },
}
IDS = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
DECODER = {**WIDTHS, **IDS, "head_dim": 8, "num_key_value_heads": 1, "sliding_window": 4}
PAIRED = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    **IDS,
    "decoder_start_token_id": 2,
}
ODD: dict[str, dict[str, Any]] = {
    "albert": {**WIDTHS, "embedding_size": 16},
    "modernbert": {
        **WIDTHS,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "cls_token_id": 0,
        "sep_token_id": 2,
        "local_attention": 2,
    },
    **{
        kind: {**WIDTHS, "pad_token_id": 1}
        for kind in ("camembert", "data2vec-text", "deberta", "megatron-bert", "ernie")
    },
    "rembert": {**WIDTHS, **IDS, "input_embedding_size": 16},
    "roformer": {**WIDTHS, "pad_token_id": 1, "embedding_size": 16},
    "squeezebert": {**WIDTHS, "pad_token_id": 1, "embedding_size": 16},
    "longformer": {**WIDTHS, **IDS, "sep_token_id": 2, "attention_window": 4},
    "big_bird": {**WIDTHS, **IDS, "sep_token_id": 2, "block_size": 2, "num_random_blocks": 1},
    "xlnet": {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32, **IDS},
    "gpt_neo": {**WIDTHS, **IDS, "attention_types": [[["global", "local"], 1]], "window_size": 4},
    "opt": {**WIDTHS, **IDS, "ffn_dim": 32, "word_embed_proj_dim": 16},
    **dict.fromkeys(
        (
            "llama",
            "mistral",
            "qwen2",
            "qwen3",
            "gemma",
            "gemma2",
            "gemma3_text",
            "smollm3",
            "phi3",
            "gpt_neox",
            "bloom",
            "olmo3",
            "exaone4",
        ),
        DECODER,
    ),
    "qwen3_moe": {**DECODER, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16},
    "phimoe": {**DECODER, "num_local_experts": 2},
    "markuplm": {**WIDTHS, **IDS},
    "modernbert-decoder": {**WIDTHS, **IDS, "cls_token_id": 0, "sep_token_id": 2, "local_attention": 4},
    **dict.fromkeys(("bart", "mbart"), PAIRED),
    "t5": {
        "d_model": 16,
        "d_kv": 8,
        "d_ff": 32,
        "num_layers": 2,
        "num_heads": 2,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 1,
    },
    "fnet": {**WIDTHS, **IDS},
    "funnel": {**IDS, "block_sizes": [2, 2], "d_model": 16, "n_head": 2, "d_head": 8, "d_inner": 32},
    "nystromformer": {**WIDTHS, **IDS, "conv_kernel_size": 5},
    "convbert": {**WIDTHS, **IDS, "embedding_size": 16, "conv_kernel_size": 3},
    "yoso": {**WIDTHS, **IDS},
    "canine": {**WIDTHS, "num_hash_buckets": 32, "local_transformer_stride": 8},
}


def tokenizer(shift: int = 0) -> Any:
    """Sixteen words; ``shift`` gives them other ids."""
    words = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", *(f"w{(i + shift) % 16}" for i in range(16))]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 0), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=40,
    )


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Saves a model and a tokenizer; with ``labels`` (a number or names) a classifier with a trained head, else a
    backbone.
    """

    def make(kind: str = "bert", labels: int | list[str] | None = None, name: str = "model", **options: Any) -> Path:
        folder = tmp_path / name
        torch.manual_seed(0)
        if isinstance(labels, list):
            options |= {"id2label": dict(enumerate(labels)), "label2id": {w: i for i, w in enumerate(labels)}}
        elif labels is not None:
            options |= {"num_labels": labels}
        made: dict[str, Any] = {**SMALL, **(KINDS | ODD)[kind], **options}
        if kind == "xlnet":  # knows no limit
            made.pop("max_position_embeddings")
        if kind == "gpt_neo":  # whose other name for it transformers 4 takes too late
            made["num_layers"] = made.pop("num_hidden_layers")
        if kind not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
            pytest.skip(f"transformers {transformers.__version__} has no classifier of the kind {kind}")
        config = AutoConfig.for_model(kind, **made)
        make_model = AutoModel if labels is None else AutoModelForSequenceClassification
        make_model.from_config(config).save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Four texts of differing length."""
    ids = torch.randint(4, 20, (4, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    ids[1, 6:], mask[1, 6:] = 1, 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
